"""The data that a step of a compiled program moves, read from its text: HLO after all passes."""

import collections
import functools
import math
import re
from typing import NamedTuple

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_ITEM_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}
_ITEM_BYTES |= {"f64": 8, "s64": 8, "u64": 8}
_ARRAY = re.compile(r"\b(pred|bf16|[suf]\d+)\[([\d,]*)\](\{[^}]*\})?")
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(COLLECTIVES)})(-start)?\((?:.*?channel_id=(\d+))?")
_COMPUTATION = re.compile(r"^(ENTRY )?%(\S+) .*\{$")
_INSTRUCTION = re.compile(r"^ +(ROOT )?%(\S+) = (.+?) ([a-z][\w-]*)\(([^)]*)\)(.*)$")
_CALLED = re.compile(r"(?:calls|body|condition|to_apply|branch_computations)=\{?([^,}]+)")
# They compute nothing, or what they call is counted.
_FREE = {"parameter", "constant", "iota", "tuple", "get-tuple-element", "bitcast", "after-all"}
_CALLS = {"while", "conditional", "call"}
_READ_A_PART = {"dynamic-slice", "gather", "slice"}
_WRITE_A_PART = {"dynamic-update-slice": 1, "scatter": 2}  # in place; where the part stands


class _Instruction(NamedTuple):
    shape: str
    op: str
    operands: list[str]
    called: list[str]
    number: str  # of a parameter
    is_root: bool


def _sizes(shape: str) -> list[tuple[int, bool]]:
    """Bytes of each array of a shape, and whether it is in the memory beside the chip."""
    sizes = []
    for dtype, dims, layout in _ARRAY.findall(shape):
        number = math.prod(int(n) for n in dims.split(",") if n)
        is_on_chip = "T(" in layout and "S(1)" in layout  # TPU: vector memory
        sizes.append((_ITEM_BYTES.get(dtype, 4) * number, not is_on_chip))
    return sizes


@functools.cache
def _elements(shape: str) -> list[str]:
    """The shapes in that of a tuple."""
    elements, depth = [""], 0
    for character in shape[shape.index("(") + 1 : -1]:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth:
            elements.append("")
        else:
            elements[-1] += character
    return elements


def collectives(text: str) -> dict[str, dict[str, int]]:
    """How the devices of a compiled program communicate in one step.

    A TPU's compiler splits a collective over the kernels that run in parallel with it, which name
    its channel.

    Args:
      text: the program in HLO, after all passes.

    Returns:
      Kind -> `count` and `bytes`, the size of what a device receives or sums.
    """
    found: dict[str, dict[str, int]] = {}
    channels = set()
    for shapes, kind, is_start, channel in _COLLECTIVE.findall(text):
        if channel and (kind, channel) in channels:
            continue
        channels.add((kind, channel))
        if is_start and (kind != "all-reduce" or shapes.startswith("((")):
            shapes = _elements(shapes)[1]  # the first is what is sent
        entry = found.setdefault(kind, {"count": 0, "bytes": 0})
        entry["count"] += 1
        entry["bytes"] += sum(size for size, _ in _sizes(shapes))
    return found


def memory_traffic(text: str, *, is_loop: bool) -> int:
    """Bytes transferred between a device and its memory in one step.

    Every instruction reads its operands and writes its results, except for data that a TPU keeps on
    the chip. Of a table, only the rows that are gathered or scattered count. An inner loop counts
    once.

    Args:
      text: as in `collectives`.
      is_loop: whether the step is the body of a loop; work before the loop is left out.
    """
    computations: dict[str, dict[str, _Instruction]] = collections.defaultdict(dict)
    current = entry = ""
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            current = match[2]
            entry = current if match[1] else entry
        elif match := _INSTRUCTION.match(line):
            root, name, shape, op, operands, rest = match.groups()
            called = [n for group in _CALLED.findall(rest) for n in re.findall(r"[\w.\-]+", group)]
            names = re.findall(r"%([^\s,]+)", operands)
            found = _Instruction(shape, op, names, called, operands, bool(root))
            computations[current][name] = found
    loops = [i.called for i in computations[entry].values() if i.op == "while"]
    if is_loop and loops:
        bodies = [name for called in loops for name in called]
        entry = max(bodies, key=lambda name: len(computations[name]))
    total, seen, todo = 0, set(), [entry]
    while todo:
        if (name := todo.pop()) in seen:
            continue
        seen.add(name)
        for instruction in computations[name].values():
            if instruction.op in _CALLS:
                todo += instruction.called
            elif instruction.op not in _FREE and not instruction.op.endswith("-done"):
                total += _moved(instruction, computations[name], computations)
    return total


def _moved(instruction: _Instruction, around: dict, computations: dict) -> int:
    results = _sizes(instruction.shape)
    if instruction.op.endswith("-start"):  # holds source and destination
        pair = results[:2]
        return sum(is_far for _, is_far in pair) * min((size for size, _ in pair), default=0)
    within = {}
    if instruction.op == "fusion" and instruction.called:
        within = computations[instruction.called[0]]
    parameters = {i.number: name for name, i in within.items() if i.op == "parameter"}
    total = sum(size for size, is_far in results if is_far)
    root = next((i for i in within.values() if i.is_root), None) or instruction
    while root.op == "bitcast" and root.operands[0] in within:
        root = within[root.operands[0]]
    if (place := _WRITE_A_PART.get(root.op)) and len(root.operands) > place:
        part = (within or around).get(root.operands[place])
        total = min(total, sum(size for size, _ in _sizes(part.shape)) if part else total)
    for number, operand in enumerate(instruction.operands):
        base, *path = operand.split("#")
        if base not in around or operand in instruction.operands[:number]:
            continue
        shape = around[base].shape
        for element in path:
            shape = _elements(shape)[int(element)]
        size = sum(size for size, is_far in _sizes(shape) if is_far)
        if str(number) in parameters:
            size = min(size, _read(parameters[str(number)], within, size))
        elif not within:
            size = min(size, _read(operand, {"": instruction}, size))
        total += size
    return total


def _read(name: str, within: dict, whole: int) -> int:
    """Bytes of an operand that instructions read, where all of them take parts of it."""
    total = 0
    for user, instruction in within.items():
        if name not in instruction.operands:
            continue
        is_first = instruction.operands[0] == name
        if instruction.op == "bitcast":
            total += _read(user, within, whole)
        elif instruction.op in _READ_A_PART and is_first:
            total += sum(size for size, _ in _sizes(instruction.shape))
        elif not (instruction.op in _WRITE_A_PART and is_first):
            return whole
    return total
