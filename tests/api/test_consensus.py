"""`jaxrobust.consensus` and `jaxrobust.audit` on simulated people."""

import csv

import numpy as np
import pages
import pandas
import pytest

import jaxrobust
from jaxrobust import UserError, audit, consensus
from jaxrobust.commands.cli import main
from jaxrobust.data.annotation_inputs import as_annotations
from jaxrobust.engine import plan

N, A, C = 240, 12, 3
NAMES = np.array(["bird", "cat", "dog"])


@pytest.fixture(scope="module")
def crowd():
    """A table of votes of twelve people, three on each item, features, and the truth."""
    rng = np.random.default_rng(1)
    true = rng.integers(0, C, N)
    features = (1.5 * rng.normal(size=(C, 8)))[true] + 2 * rng.normal(size=(N, 8))
    skill = np.linspace(0.45, 0.95, A)
    voters = np.argsort(rng.random((N, A)), axis=1) < 3
    wrong = (true[:, None] + rng.integers(1, C, (N, A))) % C
    votes = np.where(rng.random((N, A)) < skill, true[:, None], wrong)
    return np.where(voters, votes, -1), features.astype(np.float32), true, skill


@pytest.fixture(scope="module")
def by_votes(crowd):
    return consensus(crowd[0])


@pytest.fixture(scope="module")
def by_features(crowd):
    return consensus(crowd[0], features=crowd[1])


def _majority(table):
    return np.stack([(table == c).sum(1) for c in range(C)], 1).argmax(1)


def test_features_help_more_than_votes_alone_and_these_more_than_a_majority(
    crowd, by_votes, by_features
):
    table, _, true, _ = crowd
    majority, votes, features = (
        np.mean(x != true) for x in (_majority(table), by_votes.labels, by_features.labels)
    )
    assert features < 0.7 * votes and votes < majority


def test_what_it_returns(crowd, by_features):
    table, _, _, skill = crowd
    assert by_features.labels.dtype == table.dtype
    assert by_features.probs.shape == (N, C) and by_features.probs.dtype == np.float32
    assert by_features.quality.dtype == np.float32
    np.testing.assert_allclose(by_features.probs.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(by_features.probs.argmax(1), by_features.labels)
    np.testing.assert_array_equal(by_features.probs.max(1), by_features.quality)
    assert (np.diff(by_features.quality[by_features.ranked]) >= 0).all()
    annotators = by_features.annotators
    np.testing.assert_array_equal(annotators.votes, (table >= 0).sum(0))
    assert np.corrcoef(annotators.accuracy, skill)[0, 1] > 0.8
    inside = (annotators.accuracy_low < skill) & (skill < annotators.accuracy_high)
    assert inside.mean() >= 0.75
    assert annotators.confusions.shape == (A, C, C)
    np.testing.assert_allclose(annotators.confusions.sum(2), 1, rtol=1e-5)
    summary = by_features.summary
    assert summary["num_votes"] == 3 * N and summary["source"] == "features"
    assert summary["is_calibrated"] and summary["num_without_votes"] == 0
    assert "240 items, 720 votes of 12 annotators, 3 classes" in repr(by_features)


def test_numbers_near_each_other_share_their_programs(crowd, monkeypatch, compiled):
    table, features, *_ = crowd
    consensus(table, features=features).ask(5)
    with compiled() as names:
        found = consensus(table[3:], features=features[3:])
        found.ask(5)
    assert not names
    monkeypatch.setattr(plan, "padded_size", lambda size: size)
    with compiled() as names:
        expected = consensus(table[3:], features=features[3:])
    assert "fit_annotators" in names
    np.testing.assert_array_equal(found.labels, expected.labels)
    # Sums round otherwise, and the calibration has directions of little slope.
    np.testing.assert_allclose(found.probs, expected.probs, atol=1e-3)
    for name in ("accuracy", "accuracy_low", "confusions"):
        of_both = (getattr(x.annotators, name) for x in (found, expected))
        np.testing.assert_allclose(*of_both, atol=1e-3)


def test_quality_is_about_what_it_says(crowd, by_votes, by_features):
    """Of 240 labels the deviation of the share of wrong ones is .02."""
    for found in (by_votes, by_features):
        error = np.mean(found.labels != crowd[2])
        assert abs(found.summary["expected_error"] - error) < 0.06
        is_sure = found.quality > np.median(found.quality)
        assert np.mean((found.labels != crowd[2])[is_sure]) < error


def test_agreement_by_hand():
    found = consensus([[0, 0, 1], [1, 1, -1], [0, -1, -1], [1, -1, 0]])
    # The first of each pair of other votes: (1 of 2), (1 of 1), none, (0 of 1).
    np.testing.assert_allclose(found.annotators.agreement, [2 / 4, 2 / 3, 0 / 3], rtol=1e-6)


def test_a_long_form_of_text_is_the_same(crowd, by_votes):
    table = crowd[0]
    items, annotators = np.nonzero(table >= 0)
    frame = pandas.DataFrame(
        {"items": items, "annotators": annotators, "votes": NAMES[table[items, annotators]]}
    )
    found = consensus(frame)
    np.testing.assert_array_equal(found.labels, NAMES[by_votes.labels])
    np.testing.assert_allclose(found.quality, by_votes.quality, atol=0.1)  # other draws
    mixed = np.random.default_rng(1).permutation(len(frame))
    found = consensus(frame.iloc[mixed])
    np.testing.assert_array_equal(found.items, pandas.unique(items[mixed]))
    np.testing.assert_array_equal(found.labels, NAMES[by_votes.labels[found.items]])


def test_rows_of_features_are_found_by_the_ids_of_items(crowd, by_features):
    table, features, _, _ = crowd
    names = np.array([f"photo {i}" for i in range(N)])
    rows = np.random.default_rng(2).permutation(N)
    frame = pandas.DataFrame(features[rows], index=names[rows])
    found = consensus(table, items=names, features=frame)
    np.testing.assert_array_equal(found.labels, by_features.labels)
    with pytest.raises(UserError, match="features has no row for the item 'photo 7'"):
        consensus(table, items=names, features=frame.drop(index="photo 7"))


def test_what_pandas_holds_is_paired_by_its_index(crowd, by_features):
    table, features, _, _ = crowd
    rows = np.random.default_rng(2).permutation(N)
    votes, frame = pandas.DataFrame(table).iloc[rows], pandas.DataFrame(features)
    with pytest.warns(UserWarning, match="rows of features were put in the order of votes"):
        found = consensus(votes, features=frame)
    np.testing.assert_array_equal(found.labels, by_features.labels[rows])
    items, annotators = np.nonzero(table >= 0)
    long = pandas.DataFrame({"i": items, "a": annotators, "v": table[items, annotators]})
    mixed = long.sample(frac=1, random_state=0)
    with pytest.warns(UserWarning, match="rows of items were put in the order of votes"):
        found = consensus(long["v"], items=mixed["i"], annotators=long["a"])
    np.testing.assert_array_equal(found.items, np.arange(N))


def test_items_without_votes(crowd):
    table, features, true, _ = crowd
    table = table.copy()
    table[:20] = -1
    found = consensus(table, features=features)
    assert np.mean(found.labels[:20] == true[:20]) > 0.8  # answered from features
    assert found.summary["num_without_votes"] == 20
    found = consensus(table)
    np.testing.assert_array_equal(found.labels[:20], -1)
    assert set(found.ranked[:20].tolist()) == set(range(20))
    found = consensus(np.where(table < 0, "", NAMES[table]))
    np.testing.assert_array_equal(found.labels[:20], "")


def test_columns_of_probabilities_in_another_order_are_pointed_out(crowd):
    probs = np.eye(C)[crowd[2]] * 0.7 + 0.1
    names = "class_names=\\['dog', 'cat', 'bird'\\]"
    with pytest.warns(UserWarning, match=f"columns of pred_probs seem to be in .*{names}"):
        consensus(np.where(crowd[0] < 0, "", NAMES[crowd[0]]), pred_probs=probs[:, ::-1])


def test_probabilities_take_the_place_of_features(crowd, by_votes):
    table, features, true, _ = crowd
    centres = np.stack([features[true == c].mean(0) for c in range(C)])
    distances = np.square(features[:, None] - centres[None]).sum(2) / 8
    probs = np.exp(-distances) / np.exp(-distances).sum(1, keepdims=True)
    found = consensus(table, pred_probs=probs)
    assert np.mean(found.labels != true) < 0.7 * np.mean(by_votes.labels != true)
    frame = pandas.DataFrame(probs, columns=NAMES)
    named = consensus(np.where(table < 0, "", NAMES[table]), pred_probs=frame)
    np.testing.assert_array_equal(named.labels, NAMES[found.labels])


@pytest.mark.parametrize(
    "votes",
    [
        [[0], [1], [1]],  # one annotator
        [[0, 1], [1, 0], [0, 1]],  # two who never agree
        [[0, 0], [1, 1]],
        [[0, 1, -1], [-1, -1, -1], [-1, 1, 1]],
    ],
)
def test_little_to_go_by(votes):
    found = consensus(votes, class_names=["a", "b", "never"])
    assert np.isfinite(found.probs).all() and (found.quality <= 1).all()
    assert found.probs.shape[1] == 3 and found.ask(2).shape == (2,)


def test_what_is_refused(crowd):
    table, features, _, _ = crowd
    with pytest.raises(UserError, match="Give one of features=, pred_probs= or images=, not 2"):
        consensus(table, features=features, pred_probs=features)
    with pytest.raises(UserError, match="features has 239 rows, but there are 240 items"):
        consensus(table, features=features[:-1])
    for rounds in (0, True, 1.5):
        with pytest.raises(UserError, match=f"rounds={rounds} must be a whole number, at least 1"):
            consensus(table, rounds=rounds)


def test_frames_and_files(crowd, by_features, tmp_path):
    frame = by_features.to_frame()
    assert list(frame.columns) == ["label", "quality", "votes", "votes_for_label", "rank"]
    assert frame["votes"].eq(3).all() and frame["rank"].idxmin() == by_features.ranked[0]
    people = by_features.annotators_frame()
    assert people.index.name == "annotator" and list(people.columns)[:2] == ["votes", "accuracy"]
    by_features.save(tmp_path / "labels.csv")
    with open(tmp_path / "labels.csv", newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["item"]) for row in rows] == by_features.ranked.tolist()
    assert (tmp_path / "annotators.csv").is_file()


def test_a_page_of_the_most_doubtful(crowd, by_features, tmp_path):
    images = np.zeros((N, 4, 4, 3), np.uint8)
    by_features.save_review(tmp_path / "review.html", images=images, num_shown=7)
    data = pages.embedded_data(tmp_path / "review.html")
    i = int(by_features.ranked[0])
    voted = {j: str(v) for j, v in enumerate(crowd[0][i].tolist()) if v >= 0}
    assert by_features.opinions(i) == voted
    first, second = np.argsort(-by_features.probs[i])[:2]
    names = by_features.class_names
    shown = [row for row in data["rows"] if "labels" in row[6]]
    assert [row[0] for row in shown] == [str(j) for j in by_features.ranked[:7]]
    assert shown[0][2:4] == [names[first], names[second]]
    assert shown[0][7] == "; ".join(f"{name}: {vote}" for name, vote in voted.items())
    assert data["total"] == N and len(data["random"]) == 200
    assert len(data["examples"]) == len(names)  # beside the image, of labels that are sure
    with pytest.raises(UserError, match="There are 7 images for 240 items"):
        by_features.save_review(tmp_path / "review.html", images=images[:7])


def test_the_command(crowd, tmp_path, capsys):
    table, features, true, _ = crowd
    items, annotators = np.nonzero(table >= 0)
    with open(tmp_path / "votes.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["item", "annotator", "vote"])
        for i, j in zip(items, annotators, strict=True):
            writer.writerow([f"{i}.jpg", f"person {j}", NAMES[table[i, j]]])
    files = np.array([f"{i}.jpg" for i in range(N)])
    np.savez(tmp_path / "features.npz", features=features[::-1], files=files[::-1])
    out = tmp_path / "out.csv"
    arguments = [str(tmp_path / "votes.csv"), f"--features={tmp_path / 'features.npz'}"]
    assert main(["consensus", *arguments, f"--out={out}", "--ask=3"]) == 0
    printed = capsys.readouterr().out
    assert "240 items, 720 votes of 12 annotators" in printed and printed.count(".jpg") == 3
    with open(out, newline="", encoding="utf-8-sig") as file:
        labels = {row["item"]: row["label"] for row in csv.DictReader(file)}
    right = [labels[f"{i}.jpg"] == NAMES[true[i]] for i in range(N)]
    assert np.mean(right) > 0.9
    assert main(["consensus", str(tmp_path / "none.csv")]) == 2
    assert "There is no file" in capsys.readouterr().err


def test_opinions_are_asked_for_where_they_help(crowd):
    """Items that the sure ones outvote gain nothing; nobody's and contested ones do."""
    table, features, *_ = crowd
    table = table.copy()
    table[:5] = -1
    found = consensus(table, features=features)
    asked = found.ask(30)
    assert len(set(asked.tolist())) == 30
    assert found.quality[asked].mean() < found.quality.mean() - 0.1
    several = found.ask(30, per_item=3)
    assert np.bincount(several).max() <= 3 and len(set(several.tolist())) < 30
    with pytest.raises(UserError, match="budget=0 must be a whole number, at least 1"):
        found.ask(0)


def test_an_audit_of_a_consensus(crowd, by_features, tmp_path):
    true = crowd[2]
    ids = np.random.default_rng(0).permutation(N)[:120]
    drawn = np.arange(120) % 4 > 0
    answers = {"id": ids, "label": true[ids], "drawn": drawn}
    found = audit(by_features, answers, target=0.1)
    left = np.delete(np.arange(N), ids)
    wrong = by_features.labels != true
    assert found.num_reviewed == 120 and found.num_random == drawn.sum()
    assert found.num_found == wrong[ids].sum() and found.num_left == N - 120
    assert wrong[left].sum() <= found.most_left < 60
    assert abs(found.expected_left - wrong[left].sum()) < 12
    assert "Of the other 120" in str(found)
    with open(tmp_path / "corrections.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label", "decision", "drawn"])
        writer.writerows(zip(ids, true[ids], ["other"] * 120, drawn.astype(int), strict=True))
    assert audit(by_features, tmp_path / "corrections.csv", target=0.1) == found


def test_an_audit_of_label_issues():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 2, 200)
    given = np.where(rng.random(200) < 0.1, 1 - true, true)
    probs = np.where(np.eye(2, dtype=bool)[true], 0.9, 0.1)
    issues = jaxrobust.find_label_issues(given, pred_probs=probs)
    ids = issues.ranked[:50]
    found = audit(issues, pandas.DataFrame({"id": ids, "wrong": (given != true)[ids]}))
    assert found.num_found == (given != true).sum()
    assert found.most_left == 150  # nothing was drawn at random
    assert "only labels that are drawn at random can lower this bound" in str(found)


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        ({"id": [0]}, "answers has the columns id; it needs id, and label or wrong"),
        ({"id": [999], "label": [0]}, "row 0 has the id '999'; it must be a position, 0 to 239"),
        ({"id": [0, 0], "label": [0, 1]}, "answers has the id 0 twice"),
        ({"id": [0], "label": [7]}, "row 0 has the label '7'"),
        ({"id": [0, 1], "label": [0]}, "columns of several lengths"),
    ],
)
def test_answers_that_are_refused(by_votes, answers, sentence):
    with pytest.raises(UserError, match=sentence):
        audit(by_votes, answers)
    with pytest.raises(UserError, match="audit needs LabelIssues or a Consensus, not dict"):
        audit({}, answers)


def test_it_is_soft_labels(crowd, by_votes, by_features):
    table, features, true, _ = crowd
    hard, soft = (
        jaxrobust.RobustClassifier("cross_entropy", num_epochs=20).fit(features, y)
        for y in (by_votes.labels, by_votes)
    )
    assert soft.classes_.tolist() == by_votes.classes.tolist()
    # What is trained on probabilities is less sure.
    assert soft.score(features, true) > 0.85
    sure = [c.predict_proba(features).max(axis=1).mean() for c in (hard, soft)]
    assert sure[1] < sure[0] - 0.02
    judged = jaxrobust.find_label_issues(by_features, features=features)
    np.testing.assert_array_equal(judged.given, by_features.labels)
    with pytest.raises(UserError, match="method='knn' cannot learn from soft labels"):
        jaxrobust.find_label_issues(by_features, features=features, method="knn")
    unseen = table.copy()
    unseen[4] = -1
    with pytest.raises(UserError, match="labels is a Consensus in which nobody voted on item 4"):
        jaxrobust.find_label_issues(consensus(unseen), features=features)


def test_it_stands_for_annotations(crowd):
    table = crowd[0].copy()
    table[::2] = -1
    found = as_annotations(consensus(table))
    assert found.num_classes == C
    np.testing.assert_array_equal(found.ids[::2], jaxrobust.UNLABELED)
    assert np.mean(found.ids[1::2] == crowd[2][1::2]) > 0.8
