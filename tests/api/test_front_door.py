"""What a data scientist stumbles over: columns in another order, and advice that would mislead."""

import re

import numpy as np
import pytest

from configs import dpc
from jaxrobust import (
    RobustClassifier,
    UserError,
    audit,
    find_label_issues,
    query,
    tasks,
)
from jaxrobust.data.inputs import as_labels
from jaxrobust.errors import flags_as_arguments

pandas = pytest.importorskip("pandas")

NUM_CLASSES = 12
rng = np.random.default_rng(0)
TRUE = np.arange(360) % NUM_CLASSES
IS_WRONG = rng.random(360) < 0.1
LABELS = np.where(IS_WRONG, (TRUE + 1) % NUM_CLASSES, TRUE)
PROBS = np.exp(rng.normal(size=(360, NUM_CLASSES)) + 6 * np.eye(NUM_CLASSES)[TRUE])
PROBS /= PROBS.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def issues():
    return find_label_issues(LABELS, PROBS)


# Columns of probabilities


def test_columns_in_another_order_than_the_sorted_labels_are_pointed_out(issues):
    with pytest.warns(UserWarning, match="another order") as caught:
        found = find_label_issues(LABELS.astype(str), pred_probs=PROBS)
    assert len(caught) == 1 and found.is_issue.mean() > 0.5
    assert caught[0].filename == __file__  # the line of the call
    # What the warning says to give is right.
    names = eval(re.search(r"class_names=(\[.*\])", str(caught[0].message)).group(1))
    found = find_label_issues(LABELS.astype(str), pred_probs=PROBS, class_names=names)
    np.testing.assert_array_equal(found.is_issue, issues.is_issue)
    swapped = PROBS[:, [1, 0, *range(2, NUM_CLASSES)]]
    with pytest.warns(UserWarning, match="another order"):
        find_label_issues(LABELS, pred_probs=swapped)


@pytest.mark.parametrize("num_classes", [2, 3, 10, 100])
def test_a_poor_classifier_is_not_taken_for_columns_in_another_order(num_classes):
    from jaxrobust.data import doubts

    for seed in range(10):
        rng = np.random.default_rng(seed)
        for size in (30, 300, 3000):
            labels = rng.integers(0, num_classes, size)
            probs = rng.dirichlet(np.ones(num_classes), size)
            probs[:, 0] += seed % 2  # that says the same of most
            assert doubts.order_of_columns(labels, probs) is None


def test_a_categorical_brings_its_own_order_and_unused_categories(issues):
    order = list("kjihgfedcbal")
    values = np.array(order)[LABELS]
    for labels in (
        pandas.Series(pandas.Categorical(values, categories=order)),
        pandas.Categorical(values, categories=order),
    ):
        found = find_label_issues(labels, pred_probs=PROBS)
        np.testing.assert_array_equal(found.is_issue, issues.is_issue)
        assert found.class_names == tuple(order)
        assert found.suggested.tolist() == np.array(order)[issues.suggested].tolist()
    # A category that does not occur is a class: of the last column here.
    labels = pandas.Series(pandas.Categorical(values, categories=[*order, "never"]))
    assert as_labels(labels, num_columns=13).names == (*order, "never")
    with pytest.raises(UserError, match="13 names, but there are 12 columns"):
        find_label_issues(labels, pred_probs=PROBS)
    numbers = pandas.Series(pandas.Categorical(LABELS, categories=range(11, -1, -1)))
    found = find_label_issues(numbers, pred_probs=PROBS[:, ::-1])
    np.testing.assert_array_equal(found.is_issue, issues.is_issue)


def test_more_than_half_flagged_other_rows_and_ids_are_pointed_out():
    rng = np.random.default_rng(1)
    others = (TRUE + 1 + rng.integers(0, 11, 360)) % NUM_CLASSES
    with pytest.warns(UserWarning, match=r"of 360 labels look wrong, more than half"):
        find_label_issues(np.where(np.arange(360) % 10 < 6, others, TRUE), pred_probs=PROBS)
    with pytest.warns(UserWarning, match=r"predict . % of the labels, no more than chance"):
        find_label_issues(rng.permutation(TRUE), pred_probs=PROBS)
    ids = np.where(np.arange(40) < 4, 7, np.arange(40) + 100)
    with pytest.warns(UserWarning, match="37 different values in 40 entries"):
        as_labels(ids)


# Of the findings


def test_the_most_suspicious_as_a_table(issues):
    frame = issues.top(5)
    assert frame["id"].tolist() == frame.index.tolist() == issues.ranked[:5].tolist()
    assert frame["given_label"].tolist() == LABELS[issues.ranked[:5]].tolist()
    assert frame["clean_prob"].is_monotonic_increasing and len(issues.top(1000)) == 360
    with pytest.raises(UserError, match="n=0 must be a whole number of labels"):
        issues.top(0)


def test_what_is_left_from_what_a_person_found(issues):
    looked_at = [*issues.ranked[:30].tolist(), *range(40, 80)]
    looked_at = list(dict.fromkeys(looked_at))
    answers = {i: IS_WRONG[i] for i in looked_at}
    drawn = set(range(40, 80)) - set(issues.ranked[:30].tolist())
    found = issues.estimate(answers, drawn=drawn)
    columns = {
        "id": looked_at,
        "wrong": [int(IS_WRONG[i]) for i in looked_at],
        "drawn": [int(i in drawn) for i in looked_at],
    }
    assert found == audit(issues, columns)
    assert found.num_found == IS_WRONG[looked_at].sum() and found.num_random == len(drawn)
    assert found.most_left >= IS_WRONG.sum() - found.num_found
    with pytest.raises(UserError, match="drawn holds 359, which answers does not contain"):
        issues.estimate({0: True}, drawn=[359])
    with pytest.raises(UserError, match="id '360'; it must be a position, 0 to 359"):
        issues.estimate({360: True})


# Advice


def test_votes_are_answered_with_consensus_and_one_hot_rows_with_argmax():
    votes = np.array([[0, 1, 2], [1, 1, -1], [2, 2, 2]])
    for given in (
        votes,
        votes.astype(float),
        np.where(votes < 0, np.nan, votes),
        votes.astype(str),
    ):
        with pytest.raises(UserError, match=r"call jaxrobust.consensus\(votes"):
            find_label_issues(given, features=np.ones((3, 2)))
    with pytest.raises(UserError, match=r"for one-hot rows, give .argmax\(axis=1\)"):
        find_label_issues(np.eye(3, dtype=int), features=np.ones((3, 2)))


def test_every_argument_that_can_be_given_is_named():
    with pytest.raises(UserError, match=r"features=, images= or pred_probs=; none is given"):
        find_label_issues(LABELS)


def test_a_far_name_is_not_suggested():
    features = rng.normal(size=(20, 2))
    with pytest.raises(UserError, match="loss_balance") as caught:
        RobustClassifier(loss_balance="yes").fit(features, np.arange(20) % 2)
    assert "did you mean" not in str(caught.value)


def test_numbers_of_numpy_are_shown_as_numbers(issues):
    with pytest.raises(UserError) as caught:
        audit(issues, {"id": [0], "wrong": [1]}, target=np.float64(0.0))
    assert str(caught.value) == "target=0.0 must lie between 0 and 1."
    with pytest.raises(UserError, match="only one class, 3;"):
        RobustClassifier().fit(np.ones((4, 2)), np.full(4, 3))
    with pytest.raises(UserError, match=re.escape("budget=2.5 must be a whole number")):
        query([0, 1, -1], features=np.ones((3, 2)), budget=np.float64(2.5))


def test_messages_to_python_name_fields_as_the_caller_writes_them(tmp_path):
    recipe = dpc.get_config("digits")
    recipe.dpc.beta = -1.0
    nobody = dpc.get_config("digits")
    nobody.dataset.name, nobody.dataset.path = "image_folder", str(tmp_path / "nowhere")
    options, features = {"dpc.beta": -1.0}, np.ones((3, 2))
    for call, words in (
        (
            lambda: find_label_issues(LABELS, features=PROBS, config=options),
            "correct config={'dpc.beta': ...}",
        ),
        (
            lambda: query([0, 1, -1], features=features, budget=1, config={"bual.nl_epochs": -1}),
            "correct config={'bual.nl_epochs': ...}",
        ),
        (lambda: RobustClassifier(dpc__beta=-1.0).fit(PROBS, LABELS), "correct dpc__beta=..."),
        (lambda: tasks.run(recipe, tmp_path / "run"), "correct config.dpc.beta=..."),
        (lambda: tasks.run(nobody, tmp_path / "run"), "correct config.dataset.path=..."),
    ):
        with pytest.raises(UserError, match=re.escape(words)) as caught:
            call()
        assert "--" not in str(caught.value)


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        ("set --config.edl.offset=1.", "set config={'edl.offset': 1}."),
        ("correct --config.dpc.beta=.", "correct config={'dpc.beta': ...}."),
        ("choose another --config.method=.", "choose another config={'method': ...}."),
        ("set --config.dtype=float32.", "set config={'dtype': 'float32'}."),
        ("set --config.a=True, or b", "set config={'a': True}, or b"),
        ("(--config.x.y_z=) to", "(config={'x.y_z': ...}) to"),
        ("start from --config=dpc:features, or", "start from config='dpc:features', or"),
        ("choose another --workdir.", "choose another workdir."),
        ("nothing of it", "nothing of it"),
    ],
)
def test_a_flag_as_an_argument(message, wanted):
    assert flags_as_arguments(message) == wanted
