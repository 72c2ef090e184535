"""Makes the speed table of docs/results.md of the reports that `accelerator.sh` has written.

`python benchmarks/accelerator_table.py OUT` reads OUT/CASE.json, writes OUT/accelerator.json with
all of them, and prints the table with the goals beside what was measured.
"""

import json
import pathlib
import sys
from collections.abc import Callable

DPC_STEPS = 518  # of an epoch's MixMatch phase of one network, in the authors' run on CIFAR-10
TRAIN_IMAGES = 50_000


def program(case: dict, name: str) -> dict:
    """The row of a program in the report of a case.

    Raises:
      KeyError: if the case has no such program.
    """
    rows = {row["program"]: row for report in case["reports"] for row in report["programs"]}
    return rows[name]


def _rate(case: str, name: str) -> Callable[[dict], str]:
    return lambda cases: f"{program(cases[case], name)['images_per_second']:,.0f}"


def _dpc_training(cases: dict) -> str:
    step = program(cases["dpc"], "semi_supervised/epoch")["step_ms_p50"]
    return f"{DPC_STEPS * step / 1e3:.1f} s"


def _dpc_scoring(cases: dict) -> str:
    rate = program(cases["dpc"], "train/predict")["images_per_second"]
    return f"{2 * TRAIN_IMAGES / rate:.2f} s"


def _mfu(cases: dict) -> str:
    return f"{100 * program(cases['dhkd_batch_512'], 'student/epoch')['mfu']:.0f} %"


def _ratio(case: str) -> Callable[[dict], str]:
    def ratio(cases: dict) -> str:
        steps = [program(cases[c], "student/epoch")["step_ms_p50"] for c in (case, "dhkd")]
        return f"{steps[0] / steps[1]:.2f}"

    return ratio


ROWS: tuple[tuple[str, str, Callable[[dict], str]], ...] = (
    ("DPC, one network's 518 MixMatch steps of an epoch", "2.5 s", _dpc_training),
    ("DPC, scoring by both networks", "0.5 s", _dpc_scoring),
    ("BUAL, training at batch 128, images/s", "55,000", _rate("bual", "target/epoch")),
    ("DCFS, training at batch 128, images/s", "55,000", _rate("dcfs", "target/epoch")),
    ("BUAL, scoring the pool, images/s", "300,000", _rate("bual", "target/predict")),
    ("BLDR at batch 256, labelled images/s", "20,000", _rate("bldr", "train/epoch")),
    ("DHKD at batch 64, images/s", "40,000", _rate("dhkd", "student/epoch")),
    ("DHKD at batch 512, share of the peak", "40 %", _mfu),
    ("DHKD, time of a step in float32 / bfloat16", "", _ratio("dhkd_float32")),
    ("DHKD, time of a single step / of one in the device loop", "", _ratio("dhkd_single_steps")),
    ("L2D on VOC at 224 pixels, images/s", "", _rate("l2d", "student/epoch")),
)


def table(cases: dict[str, dict]) -> str:
    """The table in markdown; a figure whose case is not measured is `not measured`."""
    lines = ["| | goal on one H100 | measured |", "|---|---|---|"]
    for name, goal, figure in ROWS:
        try:
            measured = figure(cases)
        except KeyError:
            measured = "not measured"
        lines.append(f"| {name} | {goal} | {measured} |")
    return "\n".join(lines)


def main(out: pathlib.Path) -> int:
    """Writes `accelerator.json` and prints the table of what lies in `out`."""
    together = out / "accelerator.json"
    cases = {p.stem: json.loads(p.read_text()) for p in sorted(out.glob("*.json")) if p != together}
    if not cases:
        print(f"{out} holds no report yet: run benchmarks/accelerator.sh {out}.", file=sys.stderr)
        return 1
    together.write_text(json.dumps(cases, indent=1) + "\n")
    first = next(iter(cases.values()))["environment"]
    print(f"{first['devices'][0]}, jax {first['versions']['jax']}, commit {first['commit']}\n")
    print(table(cases))
    return 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
