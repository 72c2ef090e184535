"""The benchmark of growth: what it expects of a larger size, and what it says of those measured."""

import growth
import numpy as np


def points(exponent, sizes=(1000, 10_000, 100_000), gb=1.0):
    return [
        {"size": n, "seconds": 9.0, "processor_seconds": (n / 1e4) ** exponent, "gb": gb}
        for n in sizes
    ]


def test_a_larger_size_is_expected_by_the_power_law_of_the_last_two():
    assert growth.expected([], 1000) == (0, 0)
    np.testing.assert_allclose(growth.expected(points(2), 1_000_000), (1e4, 10))
    # Less than linear growth is that of what does not depend on the size.
    np.testing.assert_allclose(growth.expected(points(0.2), 1_000_000), (10**1.2, 10))


def test_the_table_says_what_was_not_run():
    measured = {name: [] for name in growth.CURVES}
    measured |= {"knn": points(2), "duplicates": points(2), "scoring": points(1)}
    lines = growth.table(measured).splitlines()
    assert len(lines) == 5
    assert lines[2] == (
        "| scoring a pool | 0.10 | 1.0 | 10 | not run (about 100) | 1.00 | 9.0 | 1.0 | 100,000 |"
    )
    assert "| 100 | not run (about 10,000) | 2.00 |" in lines[3]
    assert "| 100 | not done | 2.00 |" in lines[4]


def test_a_point_is_measured_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["", f"--out={tmp_path}", "--only=mixture", "--sizes=100"])
    for _ in range(2):
        growth.main()
    said = capsys.readouterr().out
    assert said.count("mixture 100 ") == 1
    assert (tmp_path / "growth.png").stat().st_size > 1000
