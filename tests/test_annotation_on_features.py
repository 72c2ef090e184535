"""The benchmark of annotation strategies: settings by their names, and lines of its table."""

import annotation_on_features as benchmark
import numpy as np
import pytest


def test_a_strategy_is_named_with_what_is_changed():
    config = benchmark.configured("bual+bual.base=lc+bual.subset_size=7", "f.npz", 0.4, 3)
    assert (config.bual.base, config.bual.subset_size) == ("lc", 7)
    assert (config.method, config.al.openness, config.seed) == ("bual", 0.4, 3)
    config = benchmark.configured("eaoa", "f.npz", 0.2)
    assert config.method == "eaoa" and config.al.shuffle_classes and config.num_epochs == 40


def test_a_line_of_the_table():
    """Differences of +2 and 0: their mean 1, and the standard error of it 1."""
    random = {name: np.array([0.5, 0.7]) for name in benchmark.COLUMNS}
    ours = random | {"last": np.array([0.52, 0.7]), "seconds": np.array([2.0, 4.0])}
    assert benchmark.line("bual", ours, random) == (
        "| bual | 61.0 ± 12.7 | 60.0 ± 14.1 | 1.0 ± 1.0 | 0.0 ± 0.0 | 60.0 ± 14.1 | 60.0 ± 14.1 "
        "| 60.0 ± 14.1 | 3 |"
    )


def test_a_table_is_of_the_seeds_that_every_strategy_has():
    """Accuracies .2, .4, .8 after 10, 20, 40 images: (3 + 12) / 30 is the area. Seed 2 is cut."""

    def row(strategy, seed, last):
        return {
            "openness": 0.6, "strategy": strategy, "seed": seed, "seconds": 1.0, "recall": 0.1,
            "initial_ids": [0] * 10, "queries": [[0] * 10, [0] * 20], "precision": [0.5, 0.7],
            "accuracy": [0.2, 0.4, last], "regression": 0.3,
        }  # fmt: skip

    rows = [row("random", 0, 0.8), row("bual", 0, 0.8), row("random", 1, 0.8), row("bual", 1, 0.8)]
    rows.append(row("random", 2, 0.1))
    text = benchmark.tables({(r["openness"], r["strategy"], r["seed"]): r for r in rows})
    assert "seeds [0, 1]" in text
    assert "| bual | 80.0 ± 0.0 | 50.0 ± 0.0 | 0.0 ± 0.0 | 0.0 ± 0.0 | 60.0 ± 0.0 | 10.0" in text


@pytest.mark.parametrize("unknown_class", [False, True])
def test_scikit_activeml_from_the_same_start(tmp_path, unknown_class):
    """Two groups on a line; images of a third class, unknown, are dropped or a class themselves."""
    pytest.importorskip("skactiveml")
    labels = np.arange(60) % 3
    features = (10 * labels[:, None, None] + np.linspace(0, 1, 60)[:, None, None]).astype(
        np.float16
    )
    names, split = ["a", "b", "c"], np.repeat(["train", "test"], [45, 15])
    np.savez(tmp_path / "f.npz", features=features, labels=labels, label_names=names, split=split)
    photographs = benchmark.Photographs(tmp_path / "f.npz")
    start = {"known_classes": ["a", "b"], "initial_ids": [0, 1, 3, 4]}
    found = benchmark.outside(
        start, photographs, query_size=10, rounds=3, unknown_class=unknown_class
    )
    # Between the groups of a and b there is nothing: 41 are left, of which 26 are of them.
    assert found["accuracy"][-1] == 1 and [len(ids) for ids in found["queries"]] == [10, 10]
    assert 4 / 30 < found["recall"] <= 24 / 30
    assert found["recall"] * 30 == pytest.approx(4 + 10 * sum(found["precision"]))
