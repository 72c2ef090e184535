"""What the last queries brought, and what the next one may bring."""

import numpy as np
import pytest

from jaxrobust.methods import annotation_gain


def _rounds(*accuracies):
    return [
        {"accuracy": a, "num_labeled_known": 10 + 60 * i, "num_labeled_unknown": 40 * i}
        for i, a in enumerate(accuracies)
    ]


def test_the_last_two_queries_by_hand():
    gain = annotation_gain.of_last_queries(_rounds(0.5, 0.7, 0.8, 0.9), 400)
    assert gain["points"] == pytest.approx(20)
    assert gain["error"] == pytest.approx(100 * np.sqrt((0.7 * 0.3 + 0.9 * 0.1) / 400))
    assert gain["text"] == "the last two queries of 100 brought 20.0 ± 2.7 points"
    flat = annotation_gain.of_last_queries(_rounds(0.5, 0.8, 0.8, 0.81), 400)
    assert flat["text"].endswith("brought 1.0 ± 2.8 points, which may be chance")
    assert annotation_gain.of_last_queries(_rounds(0.5, 0.7), 400) is None
    assert annotation_gain.of_last_queries(_rounds(0.5, 0.7, 0.8), 0) is None
    assert annotation_gain.of_last_queries([{"round": 0}] * 4, 400) is None  # nothing was tested


def test_over_seeds_by_hand():
    runs = [{"last_queries": {"points": p, "size": 100}} for p in (1.0, 2.0, 3.0)]
    gain = annotation_gain.over_seeds([*runs, {}])
    assert gain["points"] == 2 and gain["error"] == pytest.approx(1 / np.sqrt(3))
    assert gain["text"] == "the last two queries of 100 brought 2.0 ± 0.6 points"
    assert annotation_gain.over_seeds(runs[:1]) is None


def _points(num_each, spread, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(3 * num_each) % 3
    centres = np.random.default_rng(1).normal(size=(3, 20))
    return centres[labels] + spread * rng.normal(size=(len(labels), 20)), labels


def test_the_next_query_of_a_curve_that_rises():
    """The estimate is near what so many more examples bring indeed."""
    features, labels = _points(200, 2.5)
    of = annotation_gain.of_next_query
    said = of(features[:120], labels[:120], 3, num_more=120)
    true = of(features[:240], labels[:240], 3, num_more=1)["accuracy"] - said["accuracy"]
    assert said["points"] > 0 and abs(said["points"] - true) < 3 * said["error"]
    assert said["accuracy"] > said["accuracy_of_half"]
    assert f"likely to bring {said['points']:.1f} ± {said['error']:.1f} points" in said["text"]
    fewer = of(features[:120], labels[:120], 3, num_more=12)
    assert fewer["points"] == pytest.approx(said["points"] * np.log2(1.1))
    assert of(features[:120], labels[:120], 3, num_more=120) == said


def test_the_next_query_of_a_curve_that_is_flat():
    features, labels = _points(40, 0.05)
    said = annotation_gain.of_next_query(features, labels, 3, num_more=40)
    assert said["points"] == 0 < said["error"] < 1 and said["accuracy"] == 100


def test_too_few_examples_say_nothing():
    features, labels = _points(9, 1.0)
    assert annotation_gain.of_next_query(features, labels, 3, num_more=10) is None
    assert annotation_gain.of_next_query(features, labels, 4, num_more=10) is None
