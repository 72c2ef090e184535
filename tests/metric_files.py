"""Reading `metrics.jsonl`, for the tests of runs."""

import json


def events_of(workdir):
    """What was measured, the losses of the steps included, without seconds."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{name: x for name, x in line.items() if name != "seconds"} for line in lines]
