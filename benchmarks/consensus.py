"""The consensus of several people beside other libraries', and whom to ask next.

    python benchmarks/consensus.py table --features=photos.npz --human=CIFAR-10_human.pt
    python benchmarks/consensus.py ask --features=photos.npz --human=CIFAR-10_human.pt --new=0.5

`--features` is a file of `jaxrobust.embed` of images `CLASS/NNNN.jpg` of CIFAR-10's training part;
CIFAR-10N has three human labels of each. `--crowd` is a folder with `LabelMe` and `Sentiment` of
github.com/fmenat/PyLearningCrowds (its folder `data`) and with folders of github.com/zhydhkcws/
crowd_truth_infer that hold `answer.csv` and `truth.csv`; what is missing is left out. Rivals are
majority and, with `--rivals`, Dawid-Skene, GLAD and MACE of crowd-kit and cleanlab's CROWDLAB
on five folds of a logistic regression of majority labels on the same features.

"Classifier" is the test accuracy of a regression trained on the labels that a method found.

`ask` starts from one human label of each image, or of all but a share `--new` that nobody has seen,
and asks for a fifth as many as there are images in each of five rounds, of those that CIFAR-10N has
left; the consensus is always ours. It prints the error before every round and at the end, and the
share of each round's questions that are about images with a label.
"""

import argparse
import pathlib
import time
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

import jaxrobust
from jaxrobust import metrics
from jaxrobust.data.noise import read_cifarn_labels

ROUNDS = 5
NUM_PEOPLE = 100  # simulated, each with a confusion matrix of its own


class Crowd(NamedTuple):
    """A table of votes `[N, A]`, -1 where there is none; the truth, -1 if unknown; features.

    `test` has features and classes of images that nobody voted on.
    """

    votes: np.ndarray
    true: np.ndarray
    features: np.ndarray | None
    test: tuple[np.ndarray, np.ndarray] | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("table", "ask"))
    parser.add_argument("--features", type=pathlib.Path, help="of CIFAR-10's photographs")
    parser.add_argument("--human", type=pathlib.Path, help="CIFAR-10_human.pt")
    parser.add_argument("--test_features", type=pathlib.Path, help="of CIFAR-10's test images")
    parser.add_argument("--cifar10h", type=pathlib.Path, help="folder of CIFAR-10H's counts")
    parser.add_argument("--crowd", type=pathlib.Path, help="folder of other sets")
    parser.add_argument("--draws", type=int, default=5, help="of what is drawn")
    parser.add_argument("--rivals", action="store_true", help="whether to run them, too")
    parser.add_argument("--num", type=int, help="images of `ask`, evenly spaced")
    parser.add_argument("--new", type=float, default=0.0, help="share of `ask` without a label")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    if arguments.what == "ask":
        ask(arguments)
        return
    names = ("set", "method", "error", "expected", "AUROC", "AP", "ECE", "rank correlation")
    print(f"| {' | '.join((*names, 'classifier', 'CPU s'))} |")
    print("|---" * 10 + "|")
    for name, crowd in sets(arguments):
        for method, run in methods(crowd, arguments.rivals):
            begin = time.process_time()
            labels, quality, accuracy = run()
            seconds = time.process_time() - begin
            print(row(name, method, crowd, labels, quality, accuracy, seconds), flush=True)


def sets(arguments: argparse.Namespace) -> Iterator[tuple[str, Crowd]]:
    if arguments.crowd is not None:
        yield from crowds(arguments.crowd)
    if arguments.features is not None:
        three = photographs(arguments.features, arguments.human)
        if arguments.test_features is not None:
            with np.load(arguments.test_features) as arrays:
                inputs = arrays["features"][:, 0].astype(np.float32)
                three = three._replace(test=(inputs, arrays["labels"]))
        yield "CIFAR-10N, three", three
        yield "CIFAR-10N, two", three._replace(votes=three.votes[:, :2])
        for seed in range(arguments.draws):
            yield f"CIFAR-10, one to three of {NUM_PEOPLE}, {seed}", simulated(three, seed)
    if arguments.cifar10h is not None:
        for seed in range(arguments.draws):
            found = cifar10h(arguments.test_features, arguments.cifar10h, seed)
            yield f"CIFAR-10H, one to five votes, {seed}", found


def cifar10h(path: pathlib.Path, folder: pathlib.Path, seed: int) -> Crowd:
    """One to five of the 51 votes on each test image, of as many images each, dealt to 100 people.

    CIFAR-10H's counts do not say who voted.
    """
    rng = np.random.default_rng(seed)
    counts = np.load(folder / "cifar10h-counts.npy").astype(int)
    official = np.load(folder / "cifar10_test_set_original_labels.npy").astype(int)
    features, true, ids = read_photographs(path, official)
    num = rng.permutation(np.arange(len(ids)) % 5 + 1)
    votes = np.full((len(ids), NUM_PEOPLE), -1)
    for i, j in enumerate(ids):
        drawn = rng.permutation(np.repeat(np.arange(10), counts[j]))[: num[i]]
        votes[i, rng.choice(NUM_PEOPLE, num[i], replace=False)] = drawn
    return Crowd(votes, true, features)


def read_photographs(path: pathlib.Path, official: np.ndarray) -> tuple[np.ndarray, ...]:
    """Features, classes, and positions in CIFAR-10's own order, whose labels are given."""
    with np.load(path) as arrays:
        features, true = arrays["features"][:, 0].astype(np.float32), arrays["labels"]
        number = np.array([int(pathlib.PurePosixPath(f).stem) for f in arrays["files"]])
    members = [np.flatnonzero(official == c) for c in range(10)]
    return features, true, np.array([members[c][i] for c, i in zip(true, number, strict=True)])


def photographs(path: pathlib.Path, human: pathlib.Path) -> Crowd:
    """CIFAR-10N's three labels of the images in a file of features."""
    features, true, ids = read_photographs(path, read_cifarn_labels(human, "clean"))
    votes = [read_cifarn_labels(human, f"rand{k}")[ids] for k in (1, 2, 3)]
    return Crowd(np.stack(votes, 1), true, features)


def simulated(crowd: Crowd, seed: int) -> Crowd:
    """One to three votes of simulated people: accuracies Beta(4, 3), errors Dirichlet(0.5)."""
    rng = np.random.default_rng(seed)
    num, classes = len(crowd.true), 10
    accuracy = rng.beta(4, 3, NUM_PEOPLE)
    errors = rng.dirichlet(np.full(classes - 1, 0.5), (NUM_PEOPLE, classes))
    votes = np.full((num, NUM_PEOPLE), -1)
    for i, c in enumerate(crowd.true):
        for j in rng.choice(NUM_PEOPLE, rng.integers(1, 4), replace=False):
            probs = np.insert((1 - accuracy[j]) * errors[j, c], c, accuracy[j])
            votes[i, j] = rng.choice(classes, p=probs)
    return crowd._replace(votes=votes)


def crowds(folder: pathlib.Path) -> Iterator[tuple[str, Crowd]]:
    if (part := folder / "LabelMe").is_dir():
        votes = np.loadtxt(part / "answers.txt").astype(int)
        features = np.load(part / "LabelMe_VGG_avg_train.npy").astype(np.float32)
        test = np.load(part / "LabelMe_VGG_avg_test.npy"), _truth(part / "LabelMe_Z_test.txt")
        yield "LabelMe", Crowd(votes, _truth(part / "LabelMe_Z_train.txt"), features, test)
    if (part := folder / "Sentiment").is_dir():
        from sklearn.feature_extraction.text import TfidfVectorizer

        true = _truth(part / "Sentiment_Z_train.txt")
        text = (part / "Sentiment_text_train.txt").read_text("latin1").split("\n")[: len(true)]
        words = TfidfVectorizer(max_features=1500, sublinear_tf=True).fit_transform(text)
        votes = np.loadtxt(part / "answers.txt").astype(int)
        yield "sentences", Crowd(votes, true, words.toarray().astype(np.float32))
    for path in sorted(folder.glob("*/answer.csv")):
        import pandas

        answers, truth = (
            pandas.read_csv(path.with_name(f"{n}.csv"), dtype=str) for n in ("answer", "truth")
        )
        items, ids = pandas.factorize(answers["question"])
        people, names = pandas.factorize(answers["worker"])
        classes = sorted({*answers["answer"], *truth["truth"]})
        known = dict(zip(truth["question"], truth["truth"], strict=True))
        votes = np.full((len(ids), len(names)), -1)
        votes[items, people] = [classes.index(x) for x in answers["answer"]]
        true = [classes.index(known[x]) if x in known else -1 for x in ids]
        yield path.parent.name, Crowd(votes, np.array(true), None)


def _truth(path: pathlib.Path) -> np.ndarray:
    return np.loadtxt(path).astype(int)


def methods(crowd: Crowd, rivals: bool) -> Iterator[tuple[str, Callable[[], tuple]]]:
    """Functions that return labels, their quality and the accuracies of people, or None."""

    def ours(features):
        found = jaxrobust.consensus(crowd.votes, features=features)
        return found.labels, found.quality, found.annotators.accuracy

    yield "majority", lambda: (majority(crowd.votes), None, None)
    yield "votes alone", lambda: ours(None)
    if crowd.features is not None:
        yield "votes and features", lambda: ours(crowd.features)
        if rivals:
            for strength in (0.0001, 0.001, 0.01):
                yield f"CROWDLAB, C {strength}", lambda c=strength: crowdlab(crowd, c)
    if rivals:
        from crowdkit import aggregation

        for name in ("DawidSkene", "GLAD", "MACE"):
            yield name, lambda n=name: (crowdkit(getattr(aggregation, n)(), crowd), None, None)


def majority(votes: np.ndarray) -> np.ndarray:
    return np.stack([(votes == c).sum(1) for c in range(votes.max() + 1)], 1).argmax(1)


def crowdlab(crowd: Crowd, strength: float) -> tuple:
    from cleanlab.multiannotator import get_label_quality_multiannotator
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict
    from sklearn.preprocessing import StandardScaler

    probs = cross_val_predict(
        LogisticRegression(C=strength, max_iter=300),
        StandardScaler().fit_transform(crowd.features),
        majority(crowd.votes),
        cv=5,
        method="predict_proba",
    )
    table = np.where(crowd.votes < 0, np.nan, crowd.votes)
    found = get_label_quality_multiannotator(table, probs, verbose=False)
    frame = found["label_quality"]
    people = found["annotator_stats"].sort_index()["annotator_quality"].to_numpy()
    return frame["consensus_label"].to_numpy(), frame["consensus_quality_score"].to_numpy(), people


def crowdkit(aggregator, crowd: Crowd) -> np.ndarray:
    import pandas

    items, people = np.nonzero(crowd.votes >= 0)
    frame = pandas.DataFrame({"task": items, "worker": people, "label": crowd.votes[items, people]})
    return aggregator.fit_predict(frame).reindex(range(len(crowd.true))).to_numpy()


def row(name, method, crowd, labels, quality, accuracy, seconds) -> str:
    """A row of the table, in percent."""
    known = crowd.true >= 0
    is_wrong = (labels != crowd.true)[known]
    cells = [name, method, f"{100 * is_wrong.mean():.1f}", *[""] * 6, f"{seconds:.1f}"]
    if quality is not None:
        doubt = 1 - quality[known]
        tenths = np.array_split(np.argsort(doubt), 10)
        gaps = [abs(doubt[part].mean() - is_wrong[part].mean()) for part in tenths]
        precision = metrics.average_precision(doubt, is_wrong)
        cells[3:7] = [
            f"{100 * float(x):.1f}"
            for x in (doubt.mean(), metrics.auroc(doubt, is_wrong), precision, np.mean(gaps))
        ]
    if accuracy is not None:
        from scipy.stats import spearmanr

        voted = (crowd.votes >= 0) & known[:, None]
        right = ((crowd.votes == crowd.true[:, None]) & voted).sum(0)
        share = right / np.maximum(voted.sum(0), 1)
        cells[7] = f"{spearmanr(accuracy, share)[0]:.2f}"
    if crowd.test is not None:
        cells[8] = f"{100 * trained_on(labels, crowd):.1f}"
    return f"| {' | '.join(cells)} |"


def trained_on(labels: np.ndarray, crowd: Crowd) -> float:
    """Test accuracy of a logistic regression, its C by the log loss of three folds."""
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    regression = LogisticRegressionCV(
        Cs=np.logspace(-5, -2, 4), cv=3, scoring="neg_log_loss", max_iter=200
    )
    model = make_pipeline(StandardScaler(), regression).fit(crowd.features, labels)
    return float(np.mean(model.predict(crowd.test[0]) == crowd.test[1]))


def ask(arguments: argparse.Namespace) -> None:
    """Error after every round, by who is asked about next."""
    from cleanlab.multiannotator import get_active_learning_scores

    from jaxrobust.selection import vector_scaling
    from jaxrobust.selection.ridge import leave_one_out

    crowd = photographs(arguments.features, arguments.human)
    if arguments.num is not None:
        some = np.linspace(0, len(crowd.true) - 1, arguments.num).astype(int)
        crowd = Crowd(*(part[some] for part in crowd))
    num, num_people = crowd.votes.shape

    def by_active_lab(found, votes, rng):
        # The classifier is ours, so that only the choice differs.
        voted = found.num_votes > 0
        regression = leave_one_out(crowd.features, where=None if voted.all() else voted)
        probs = np.exp(vector_scaling(regression(found.probs), found.probs, where=voted))
        table = np.where(votes < 0, np.nan, votes)
        old, new = np.flatnonzero(found.num_votes), np.flatnonzero(found.num_votes == 0)
        rest = probs[new] if len(new) else None
        scores = np.concatenate(get_active_learning_scores(table[old], probs[old], rest))
        return np.concatenate([old, new])[scores.argsort(kind="stable")]

    choices = {
        "ask": lambda found, votes, rng: found.ask(num),
        "most doubtful": lambda found, votes, rng: found.ranked,
        "ActiveLab": by_active_lab,
        "random": lambda found, votes, rng: rng.permutation(num),
    }
    start: dict[int, jaxrobust.Consensus] = {}
    for name, choose in choices.items():
        for seed in range(arguments.draws):
            rng = np.random.default_rng(seed)
            order = np.argsort(np.argsort(rng.random(crowd.votes.shape), axis=1), axis=1)
            given = (rng.random(num) >= arguments.new).astype(int)
            errors, again = [], []
            while True:
                votes = np.where(order < given[:, None], crowd.votes, -1)
                found = start.get(seed) if not errors else None
                found = found or jaxrobust.consensus(votes, features=crowd.features)
                start.setdefault(seed, found)
                errors.append(100 * np.mean(found.labels != crowd.true))
                if len(errors) > ROUNDS:
                    break
                chosen = choose(found, votes, rng)
                chosen = chosen[given[chosen] < num_people][: num // ROUNDS]
                again.append(100 * np.mean(given[chosen] > 0))
                given[chosen] += 1
            cells = [*(f"{e:.2f}" for e in errors), *(f"{a:.0f}" for a in again)]
            print(f"| {name} | {seed} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
