"""JAX functions as ONNX models: an interpreter of their jaxpr.

Expressions of constants are evaluated here; each of the few other primitives becomes one or two
ONNX operators. The first dimension of the input is symbolic, so that a model takes batches of any
size.
"""

import collections
import dataclasses
import string
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

from jaxrobust.errors import UserError

OPSET = 17
"""Version of ONNX's operators; onnxruntime reads it since 1.12 (2022)."""
_IR_VERSION = 8  # released with this opset

Constant = np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class _Tensor:
    """An output of a node."""

    name: str  # in the graph
    # dimensions, some of which may be multiples of the symbolic batch; 1 where the value has not
    # been broadcast yet
    shape: tuple[Any, ...]


_Value = _Tensor | Constant


@dataclasses.dataclass(eq=False)
class _Node:
    """An ONNX operator; its inputs are names of tensors, and constants."""

    op: str
    inputs: list[str | Constant]
    outputs: list[str]
    attributes: dict[str, Any]


# Elementwise primitives that are one operator each, and their NumPy functions for constants.
_ELEMENTWISE: dict[str, tuple[str, Callable[..., Any]]] = {
    "abs": ("Abs", np.abs),
    "add": ("Add", np.add),
    "add_any": ("Add", np.add),
    "and": ("And", np.logical_and),
    "div": ("Div", np.divide),
    "eq": ("Equal", np.equal),
    "exp": ("Exp", np.exp),
    "ge": ("GreaterOrEqual", np.greater_equal),
    "gt": ("Greater", np.greater),
    "le": ("LessOrEqual", np.less_equal),
    "log": ("Log", np.log),
    "lt": ("Less", np.less),
    "max": ("Max", np.maximum),
    "min": ("Min", np.minimum),
    "mul": ("Mul", np.multiply),
    "neg": ("Neg", np.negative),
    "not": ("Not", np.logical_not),
    "or": ("Or", np.logical_or),
    "pow": ("Pow", np.power),
    "sqrt": ("Sqrt", np.sqrt),
    "sub": ("Sub", np.subtract),
    "tanh": ("Tanh", np.tanh),
}
# Primitives that change no value.
_IDENTITIES = ("copy", "stop_gradient", "optimization_barrier", "reduce_precision", "copy_p")


def to_onnx(
    function: Callable[[jax.Array], jax.Array],
    shape: Sequence[int],
    dtype: Any,
    *,
    name: str = "images",
    output: str,
    metadata: dict[str, str],
) -> Any:
    """An `onnx.ModelProto` of a function of a batch of images, or of inputs of another name."""
    (batch,) = jax.export.symbolic_shape("batch")
    given = jax.ShapeDtypeStruct((batch, *shape), dtype)
    jaxpr = jax.make_jaxpr(function)(given)
    graph = _Translator(batch)
    inputs: list[_Value] = [_Tensor(name, tuple(given.shape))]
    (result,) = graph.run(jaxpr.jaxpr, jaxpr.consts, inputs)
    shape = jaxpr.out_avals[0].shape
    graph.node("Identity", [graph.materialized(result, shape)], shape, name=output)
    graph.fuse()
    ends = {name: given, output: jaxpr.out_avals[0]}
    return graph.model(ends, metadata)


class _Graph:
    """An ONNX graph: its nodes, and the model that is made of them."""

    def __init__(self, batch: Any):
        self.batch = batch
        self.nodes: list[_Node] = []
        self._count = 0

    # Nodes and shapes

    def node(
        self,
        op: str,
        inputs: Sequence[_Value | str],
        shape: Sequence[Any],
        *,
        name: str = "",
        **attributes,
    ) -> _Tensor:
        """A new operator with one output."""
        name = name or self._name()
        names = [x.name if isinstance(x, _Tensor) else x for x in inputs]
        self.nodes.append(_Node(op, names, [name], attributes))
        return _Tensor(name, tuple(shape))

    def _name(self) -> str:
        self._count += 1
        return f"t{self._count}"

    def materialized(self, value: _Value, shape: Sequence[Any]) -> _Value:
        """A value broadcast to a shape; a constant stays one where no dimension is symbolic."""
        if tuple(value.shape) == tuple(shape):
            return value
        if isinstance(value, Constant) and _is_static(shape):
            return np.broadcast_to(value, shape)
        return self.node("Expand", [value, self._shape(shape)], shape)

    def _shape(self, shape: Sequence[Any]) -> _Value | str:
        """A shape as an int64 tensor."""
        if _is_static(shape):
            return np.array(shape, np.int64)
        first = [np.array([i], np.int64) for i in (0, 1)]
        of_images = self.node("Shape", ["images"], (4,))
        batch = self.node("Slice", [of_images, *first], (1,))
        parts = [
            np.array([n], np.int64)
            if isinstance(n, int)
            else self.node("Mul", [batch, np.array([n // self.batch], np.int64)], (1,))
            for n in shape
        ]
        return self.node("Concat", parts, (len(shape),), axis=0)

    # From nodes to a file

    def fuse(self) -> None:
        """Folds channels' scales and shifts into the convolution before, ReLU and Min into Clip."""
        makers = {name: node for node in self.nodes for name in node.outputs}
        uses = collections.Counter(x for n in self.nodes for x in n.inputs if isinstance(x, str))
        renamed: dict[str, str] = {}
        kept = []
        for node in self.nodes:
            node.inputs = [renamed.get(x, x) if isinstance(x, str) else x for x in node.inputs]
            tensors = [x for x in node.inputs if isinstance(x, str)]
            constants = [x for x in node.inputs if isinstance(x, Constant)]
            before = makers.get(tensors[0]) if len(tensors) == 1 and constants else None
            if before is not None and uses[tensors[0]] == 1:
                if _into_convolution(node, before, makers, uses):
                    renamed[node.outputs[0]] = tensors[0]
                    makers[node.outputs[0]] = before
                    uses[tensors[0]] = uses[node.outputs[0]]
                    continue
                if node.op == "Min" and before.op == "Relu" and constants[0].size == 1:
                    bound = constants[0].reshape(())
                    before.op = "Clip"
                    before.inputs = [before.inputs[0], np.zeros_like(bound), bound]
                    renamed[node.outputs[0]] = tensors[0]
                    uses[tensors[0]] = uses[node.outputs[0]]
                    continue
            kept.append(node)
        self.nodes = kept

    def model(self, ends: dict[str, Any], metadata: dict[str, str]) -> Any:
        """The graph as an `onnx.ModelProto`, `ends` its input and its output."""
        import onnx
        from onnx import helper, numpy_helper

        initializers: dict[tuple, Any] = {}

        def named(x: str | Constant) -> str:
            if isinstance(x, str):
                return x
            key = (x.dtype.str, x.shape, x.tobytes())
            if key not in initializers:
                name = f"c{len(initializers)}"
                initializers[key] = numpy_helper.from_array(np.asarray(x, order="C"), name)
            return initializers[key].name

        nodes = [
            helper.make_node(n.op, list(map(named, n.inputs)), n.outputs, **n.attributes)
            for n in self.nodes
        ]

        def info(name, aval):
            sizes = [n if isinstance(n, int) else str(n) for n in aval.shape]
            return helper.make_tensor_value_info(name, _onnx_type(aval.dtype), sizes)

        first, last = (info(*end) for end in ends.items())
        graph = helper.make_graph(nodes, "network", [first], [last], list(initializers.values()))
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=_IR_VERSION,
            producer_name="jaxrobust",
        )
        helper.set_model_props(model, metadata)
        onnx.checker.check_model(model)
        return model


class _Translator(_Graph):
    """The graph of a jaxpr, built from its equations."""

    # From equations to nodes

    def run(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[_Value]) -> list[_Value]:
        """Adds the equations of a jaxpr, and returns its outputs."""
        values: dict[Any, _Value] = dict(zip(jaxpr.constvars, map(np.asarray, consts), strict=True))
        values.update(zip(jaxpr.invars, inputs, strict=True))

        def read(x: Any) -> _Value:
            if isinstance(x, jax.extend.core.Literal):
                return np.asarray(x.val, cast(Any, x.aval).dtype)
            return values[x]

        for eqn in jaxpr.eqns:
            outputs = self._equation(eqn, list(map(read, eqn.invars)))
            values.update(zip(eqn.outvars, outputs, strict=True))
        return list(map(read, jaxpr.outvars))

    def _equation(self, eqn: Any, inputs: list[_Value]) -> Sequence[_Value]:
        name, params = eqn.primitive.name, eqn.params
        if name in _IDENTITIES:
            return inputs
        if name == "platform_index":  # choose the default branch
            return [np.asarray(params["platforms"].index(None), np.int32)]
        if name == "cond" and isinstance(inputs[0], Constant):
            branch = params["branches"][int(inputs[0])]
            return self.run(branch.jaxpr, branch.consts, inputs[1:])
        for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
            if inner := params.get(key):
                closed = hasattr(inner, "consts")
                return (
                    self.run(inner.jaxpr, inner.consts, inputs)
                    if closed
                    else self.run(inner, (), inputs)
                )
        if name in _ELEMENTWISE:
            return [self._elementwise(*_ELEMENTWISE[name], inputs)]
        if handler := getattr(self, f"on_{name}", None):
            if name not in _LAZY:
                avals = [x.aval.shape for x in eqn.invars]
                inputs = list(map(self.materialized, inputs, avals))
                if all(isinstance(x, Constant) for x in inputs):
                    return self._computed(eqn, inputs)
            outputs = handler(eqn, *inputs)
            return outputs if isinstance(outputs, list) else [outputs]
        if all(isinstance(x, Constant) for x in inputs):
            return self._computed(eqn, inputs)
        raise _not_in_onnx(f"The operation {name!r}")

    def _computed(self, eqn: Any, inputs: Sequence[_Value]) -> list[_Value]:
        """The outputs of a primitive of constants."""
        whole = [
            np.broadcast_to(cast(Constant, x), v.aval.shape)
            for x, v in zip(inputs, eqn.invars, strict=True)
        ]
        outputs = eqn.primitive.bind(*map(jnp.asarray, whole), **eqn.params)
        return list(map(np.asarray, outputs if eqn.primitive.multiple_results else [outputs]))

    def _elementwise(self, op: str, function: Callable, inputs: list[_Value]) -> _Value:
        if all(isinstance(x, Constant) for x in inputs):
            return np.asarray(function(*inputs))
        shape = _broadcast([x.shape for x in inputs])
        if op == "Max" and any(isinstance(x, Constant) and x.size == 1 and x == 0 for x in inputs):
            (x,) = [x for x in inputs if isinstance(x, _Tensor)]
            return self.node("Relu", [x], shape)
        return self.node(op, inputs, shape)

    def _apply(self, op: str, a: _Value, b: _Value) -> _Value:
        return self._elementwise(*_ELEMENTWISE[op], [a, b])

    def on_ne(self, eqn, a, b):
        return self._elementwise(*_ELEMENTWISE["not"], [self._apply("eq", a, b)])

    def on_square(self, eqn, x):
        return self._apply("mul", x, x)

    def on_integer_pow(self, eqn, x):
        if eqn.params["y"] == 2:
            return self._apply("mul", x, x)
        return self._apply("pow", x, np.asarray(eqn.params["y"], _dtype_of(eqn)))

    def on_rsqrt(self, eqn, x):
        if isinstance(x, Constant):
            return np.reciprocal(np.sqrt(x))
        return self.node("Reciprocal", [self.node("Sqrt", [x], x.shape)], x.shape)

    def on_logistic(self, eqn, x):
        return self.node("Sigmoid", [x], x.shape)

    def on_erf(self, eqn, x):
        return self.node("Erf", [x], x.shape)

    def on_erfc(self, eqn, x):
        one = np.ones((), _dtype_of(eqn))
        return self._apply("sub", one, self.node("Erf", [x], x.shape))

    def on_log1p(self, eqn, x):
        return self.node("Log", [self._apply("add", np.ones((), _dtype_of(eqn)), x)], x.shape)

    def on_clamp(self, eqn, low, x, high):
        return self._apply("min", self._apply("max", x, low), high)

    def on_select_n(self, eqn, which, *cases):
        shape = _broadcast([x.shape for x in (which, *cases)])
        return self.node("Where", [which, cases[1], cases[0]], shape)

    def on_convert_element_type(self, eqn, x):
        dtype = np.dtype(eqn.params["new_dtype"])
        if isinstance(x, Constant):
            return x.astype(dtype)
        if eqn.invars[0].aval.dtype == dtype:
            return x
        return self.node("Cast", [x], x.shape, to=_onnx_type(dtype))

    # Shapes

    def on_broadcast_in_dim(self, eqn, x):
        shape = [1] * len(eqn.params["shape"])
        for size, axis in zip(x.shape, eqn.params["broadcast_dimensions"], strict=True):
            shape[axis] = size
        if isinstance(x, Constant):
            return x.reshape(shape)
        added = sorted(set(range(len(shape))) - set(eqn.params["broadcast_dimensions"]))
        return self.node("Unsqueeze", [x, np.array(added)], shape) if added else x

    def on_transpose(self, eqn, x):
        return self._permuted(x, eqn.params["permutation"])

    def _permuted(self, x: _Value, axes: Sequence[int]) -> _Value:
        if isinstance(x, Constant):
            return x.transpose(axes)
        if list(axes) == list(range(len(axes))):
            return x
        return self.node("Transpose", [x], [x.shape[i] for i in axes], perm=list(axes))

    def on_reshape(self, eqn, x):
        shape = eqn.params["new_sizes"]
        # A single dimension that depends on the batch is inferred from the others.
        sizes = np.array([n if isinstance(n, int) else -1 for n in shape], np.int64)
        if (sizes == -1).sum() > 1:
            return self.node("Reshape", [x, self._shape(shape)], shape)
        return self.node("Reshape", [x, sizes], shape)

    def on_squeeze(self, eqn, x):
        axes = np.array(eqn.params["dimensions"], np.int64)
        return self.node("Squeeze", [x, axes], eqn.outvars[0].aval.shape)

    def on_concatenate(self, eqn, *inputs):
        axis = eqn.params["dimension"]
        return self.node("Concat", inputs, eqn.outvars[0].aval.shape, axis=axis)

    def on_stack(self, eqn, *inputs):
        axis, shape = eqn.params["axis"], eqn.outvars[0].aval.shape
        one = (*shape[:axis], 1, *shape[axis + 1 :])
        parts = [self.node("Unsqueeze", [x, np.array([axis])], one) for x in inputs]
        return self.node("Concat", parts, shape, axis=axis)

    def on_slice(self, eqn, x):
        starts, ends = eqn.params["start_indices"], eqn.params["limit_indices"]
        steps = eqn.params["strides"] or (1,) * len(starts)
        return self._sliced(x, starts, ends, steps, eqn.outvars[0].aval.shape)

    def on_gather(self, eqn, x, start):
        """`x[:, :n]`, `x[:, i]` or `x[:, [i, j]]`, gathers where a dimension is symbolic."""
        numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
        shape, gone = eqn.outvars[0].aval.shape, numbers.collapsed_slice_dims
        is_list = start.ndim == 2 and len(gone) == 1 and gone[0] not in numbers.offset_dims
        if numbers.operand_batching_dims or not isinstance(start, Constant):
            raise _not_in_onnx("A gather that is not a slice")
        if is_list and gone == numbers.start_index_map:
            return self.node("Gather", [x, start[:, 0].astype(np.int64)], shape, axis=gone[0])
        if start.ndim != 1:
            raise _not_in_onnx("A gather that is not a slice")
        starts = [0] * len(sizes)
        for axis, first in zip(numbers.start_index_map, start.tolist(), strict=True):
            starts[axis] = first
        ends = [first + size for first, size in zip(starts, sizes, strict=True)]
        cut = self._sliced(x, starts, ends, (1,) * len(sizes), sizes)
        return self.node("Squeeze", [cut, np.array(gone, np.int64)], shape) if gone else cut

    def _sliced(self, x: _Value, starts, ends, steps, shape) -> _Value:
        bounds = enumerate(zip(starts, ends, steps, strict=True))
        cut = [i for i, bound in bounds if bound != (0, x.shape[i], 1)]
        values = [np.array([v[i] for i in cut], np.int64) for v in (starts, ends)]
        strides = np.array([steps[i] for i in cut], np.int64)
        inputs = [x, *values, np.array(cut, np.int64), strides]
        return self.node("Slice", inputs, shape) if cut else x

    def on_split(self, eqn, x):
        names = [self._name() for _ in eqn.outvars]
        sizes = np.array(eqn.params["sizes"], np.int64)
        self.nodes.append(_Node("Split", [x.name, sizes], names, {"axis": eqn.params["axis"]}))
        return [_Tensor(n, v.aval.shape) for n, v in zip(names, eqn.outvars, strict=True)]

    def on_unstack(self, eqn, x):
        return [
            self.node("Gather", [x, np.asarray(i)], v.aval.shape, axis=eqn.params["axis"])
            for i, v in enumerate(eqn.outvars)
        ]

    def on_pad(self, eqn, x, value):
        low, high, between = zip(*eqn.params["padding_config"], strict=True)
        if any(between):
            raise _not_in_onnx("Padding between elements")
        pads = np.array([*low, *high], np.int64)
        return self.node("Pad", [x, pads, value], eqn.outvars[0].aval.shape)

    # Reductions

    def _reduced(self, eqn, x: _Value, op: str) -> _Value:
        axes, shape = eqn.params["axes"], eqn.outvars[0].aval.shape
        if op == "ReduceSum":
            return self.node(op, [x, np.array(axes, np.int64)], shape, keepdims=0)
        return self.node(op, [x], shape, axes=list(axes), keepdims=0)

    def on_reduce_sum(self, eqn, x):
        return self._reduced(eqn, x, "ReduceSum")

    def on_reduce_max(self, eqn, x):
        return self._reduced(eqn, x, "ReduceMax")

    def on_reduce_min(self, eqn, x):
        return self._reduced(eqn, x, "ReduceMin")

    # Windows over maps

    def _pooled(self, eqn, x: _Value, op: str, **attributes: Any) -> _Value:
        """A pooling of maps `[B, H, W, C]`."""
        window, strides = eqn.params["window_dimensions"], eqn.params["window_strides"]
        padding = eqn.params["padding"]
        dilation = (*eqn.params["base_dilation"], *eqn.params["window_dilation"])
        outer = (window[0], window[-1], strides[0], strides[-1])
        if len(window) != 4 or set(dilation) != {1} or set(outer) != {1}:
            raise _not_in_onnx("A window over other axes than height and width")
        pooled = self.node(
            op,
            [self._permuted(x, (0, 3, 1, 2))],
            _picked(eqn.outvars[0].aval.shape, (0, 3, 1, 2)),
            kernel_shape=list(window[1:3]),
            strides=list(strides[1:3]),
            pads=[padding[1][0], padding[2][0], padding[1][1], padding[2][1]],
            **attributes,
        )
        return self._permuted(pooled, (0, 2, 3, 1))

    def on_reduce_window_max(self, eqn, x):
        return self._pooled(eqn, x, "MaxPool")

    def on_reduce_window_sum(self, eqn, x):
        mean = self._pooled(eqn, x, "AveragePool", count_include_pad=1)
        count = np.asarray(np.prod(eqn.params["window_dimensions"]), _dtype_of(eqn))
        return self._apply("mul", mean, count)

    def on_conv_general_dilated(self, eqn, x, kernel):
        params = eqn.params
        if set(params["lhs_dilation"]) != {1} or params["batch_group_count"] != 1:
            raise _not_in_onnx("A transposed convolution")
        of_x, of_kernel, of_result = params["dimension_numbers"]
        low, high = zip(*params["padding"], strict=True)
        shape = eqn.outvars[0].aval.shape
        result = self.node(
            "Conv",
            [self._permuted(x, of_x), self._permuted(kernel, of_kernel)],
            _picked(shape, of_result),
            strides=list(params["window_strides"]),
            pads=[*low, *high],
            dilations=list(params["rhs_dilation"]),
            group=params["feature_group_count"],
        )
        return self._permuted(result, np.argsort(of_result).tolist())

    def on_dot_general(self, eqn, a, b):
        (contract, batch), shape = eqn.params["dimension_numbers"], eqn.outvars[0].aval.shape
        is_dense = len(b.shape) == 2 and contract == ((len(a.shape) - 1,), (0,))
        if is_dense and not batch[0]:
            return self.node("MatMul", [a, b], shape)
        letters = iter(string.ascii_lowercase)
        of_a = [next(letters) for _ in a.shape]
        of_b = [""] * len(b.shape)
        for axes in (contract, batch):
            for i, j in zip(*axes, strict=True):
                of_b[j] = of_a[i]
        of_b = [letter or next(letters) for letter in of_b]
        shared = [of_a[i] for i in batch[0]]
        gone = {of_a[i] for i in contract[0]} | set(shared)
        free = [letter for letter in (*of_a, *of_b) if letter not in gone]
        equation = f"{''.join(of_a)},{''.join(of_b)}->{''.join(shared + free)}"
        return self.node("Einsum", [a, b], shape, equation=equation)


# Primitives whose handlers take values that are not broadcast yet.
_LAZY = (
    "broadcast_in_dim",
    "clamp",
    "convert_element_type",
    "integer_pow",
    "ne",
    "rsqrt",
    "square",
    "transpose",
)


def _into_convolution(
    node: _Node, before: _Node, makers: dict[str, _Node], uses: collections.Counter
) -> bool:
    """Folds an operator with a constant per channel into the convolution; whether it could."""
    if before.op != "Transpose" or node.op not in ("Add", "Sub", "Mul"):
        return False
    conv = makers.get(before.inputs[0])  # pyright: ignore[reportArgumentType]
    if conv is None or conv.op != "Conv" or uses[conv.outputs[0]] > 1:
        return False
    kernel = conv.inputs[1]
    is_last = [isinstance(x, str) for x in node.inputs] == [True, False]
    constant = node.inputs[1] if is_last else node.inputs[0]
    if not isinstance(kernel, Constant) or not isinstance(constant, Constant):
        return False
    width = len(kernel)
    if before.attributes["perm"] != [0, 2, 3, 1] or constant.size not in (1, width):
        return False
    if constant.size > 1 and constant.shape[-1] != width:
        return False
    if node.op == "Sub" and not is_last:
        return False
    constant = np.broadcast_to(constant.reshape(-1), (width,))
    bias = conv.inputs[2] if len(conv.inputs) > 2 else np.zeros(width, kernel.dtype)
    if node.op == "Mul":
        kernel, bias = kernel * constant[:, None, None, None], bias * constant
    else:
        bias = bias + constant if node.op == "Add" else bias - constant
    conv.inputs = [conv.inputs[0], kernel, bias]
    return True


def _not_in_onnx(what: str) -> UserError:
    return UserError(
        f"{what} of this network cannot be written as ONNX by jaxrobust; set "
        "--config.export.onnx=False, and report it."
    )


def _dtype_of(eqn: Any) -> np.dtype:
    """Dtype of the first operand of an equation."""
    return np.dtype(eqn.invars[0].aval.dtype)


def _is_static(shape: Sequence[Any]) -> bool:
    return all(isinstance(n, int) for n in shape)


def _picked(shape: Sequence[Any], axes: Sequence[int]) -> tuple[Any, ...]:
    return tuple(shape[i] for i in axes)


def _broadcast(shapes: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
    """The common shape of elementwise operands, including scalars."""
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(
        next((n for n in sizes if not (isinstance(n, int) and n == 1)), 1)
        for sizes in zip(*padded, strict=True)
    )


def _onnx_type(dtype: Any) -> int:
    from onnx import helper

    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
