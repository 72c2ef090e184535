"""The speed table is made of whatever cases were measured before the machine was taken away."""

import json

import accelerator_table


def _report(folder, case, **programs):
    rows = [{"program": name.replace("__", "/"), **row} for name, row in programs.items()]
    environment = {"devices": ["gpu:0 H100"], "versions": {"jax": "0.11"}, "commit": "abc"}
    report = {"environment": environment, "reports": [{"programs": rows}]}
    (folder / f"{case}.json").write_text(json.dumps(report))


def test_figures_are_those_of_the_cases_that_are_there(tmp_path, capsys):
    _report(
        tmp_path,
        "dpc",
        semi_supervised__epoch={"step_ms_p50": 5.0},
        train__predict={"images_per_second": 250_000.0},
    )
    _report(tmp_path, "dhkd", student__epoch={"step_ms_p50": 2.0, "images_per_second": 32_000.0})
    _report(tmp_path, "dhkd_float32", student__epoch={"step_ms_p50": 3.0})
    for _ in range(2):  # the file of all cases is no case
        assert accelerator_table.main(tmp_path) == 0
    said = capsys.readouterr().out
    assert "gpu:0 H100, jax 0.11, commit abc" in said
    assert "| DPC, one network's 518 MixMatch steps of an epoch | 2.5 s | 2.6 s |" in said
    assert "| DPC, scoring by both networks | 0.5 s | 0.40 s |" in said
    assert "| DHKD at batch 64, images/s | 40,000 | 32,000 |" in said
    assert "| DHKD, time of a step in float32 / bfloat16 |  | 1.50 |" in said
    assert "| BLDR at batch 256, labelled images/s | 20,000 | not measured |" in said


def test_nothing_measured_is_said(tmp_path, capsys):
    assert accelerator_table.main(tmp_path) == 1
    assert "holds no report yet" in capsys.readouterr().err
