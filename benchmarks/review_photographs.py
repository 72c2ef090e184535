r"""The path of docs/review_photographs.md, with a script in the person's place.

    python benchmarks/review_photographs.py photos --cifar10=cifar10 \
        --human=CIFAR-10_human.pt --out=DIR
    (the page's first command, with --config.dataset.path=DIR/photos)
    python benchmarks/review_photographs.py answer --run=runs/mine --truth=DIR/truth.csv
    (the page's third commands)
    python benchmarks/review_photographs.py keys --page=label_review.html --looks=grid

`photos` takes 40 photographs of each of six animals, with the first human label of CIFAR-10N, for
training, and 10 for testing. `answer` presses a key for each label that the page of `jaxrobust
review` asks about, and answers the truth. `keys` presses the keys of a hundred decisions on a page
of 100 labels or more, which may be one of an older version, and counts the processor time of the
page's main thread.
"""

import argparse
import collections
import contextlib
import csv
import json
import pathlib
import random
import shutil
import signal
import subprocess
import sys

from playwright.sync_api import sync_playwright

from jaxrobust.data.noise import read_cifarn_labels

ANIMALS = ("bird", "cat", "deer", "dog", "frog", "horse")
CLASSES = ("airplane", "automobile", *ANIMALS, "ship", "truck")
NUM_TRAIN, NUM_TEST = 40, 10
SHARES = {"k": 45, "a": 40, "2": 10, "u": 5}


def photos(cifar10: pathlib.Path, human: pathlib.Path, out: pathlib.Path) -> None:
    """The first files of each class whose human label is one of the animals."""
    given = collections.defaultdict(list)
    labels = [read_cifarn_labels(human, key) for key in ("clean", "rand1")]
    for true, label in zip(*labels, strict=True):
        given[CLASSES[true]].append(CLASSES[label])
    truth = []
    for name in ANIMALS:
        is_taken = [(n, label) for n, label in enumerate(given[name]) if label in ANIMALS]
        for n, label in is_taken[:NUM_TRAIN]:
            truth.append([f"train/{label}/{name[:2]}{n:04}.jpg", name])
            _copy(cifar10 / "train" / name / f"{n:04}.jpg", out / "photos" / truth[-1][0])
        for n in range(NUM_TEST):
            file = f"test/{name}/{n:04}.jpg"
            _copy(cifar10 / file, out / "photos" / file)
    with (out / "truth.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "class"], *truth])
    wrong = sum(file.split("/")[1] != name for file, name in truth)
    print(f"{wrong} of {len(truth)} labels are wrong")


def _copy(source: pathlib.Path, target: pathlib.Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


@contextlib.contextmanager
def _page():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 1400, "height": 900})
        browser.close()


def answer(run: pathlib.Path, truth: pathlib.Path) -> None:
    """Each label that looks wrong, one photograph at a time, in what `jaxrobust review` serves."""
    with truth.open(newline="") as file:
        true = {row["file"]: row["class"] for row in csv.DictReader(file)}
    command = [sys.executable, "-m", "jaxrobust", "review", str(run), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, _page() as page:
        page.goto(server.stdout.readline().strip())
        data = json.loads(page.text_content("#data"))
        rows = [row for row in data["rows"] if "labels" in row[6]]
        page.keyboard.press("Enter")
        for _, name, given, suggested, *_ in rows:
            if true[name] in (given, suggested):
                page.keyboard.press("k" if true[name] == given else "a")
            else:
                title = page.locator("#classes button", has_text=true[name])
                page.keyboard.press(title.locator("kbd").text_content())
        while page.text_content("#save") != "Saved ✓":
            page.wait_for_timeout(50)
        print(page.text_content("#count"))
        server.send_signal(signal.SIGINT)
    wrong = sum(true[row[1]] != row[2] for row in rows)
    print(f"{wrong} of the {len(rows)} are wrong")


def keys(page: pathlib.Path, looks: str) -> None:
    """A hundred decisions: in the grid, or each large, in a view that takes answers or does not."""
    draw = random.Random(2)
    pressed = draw.choices(list(SHARES), list(SHARES.values()), k=100)
    if looks == "opens":
        pressed = ["Enter", *pressed]
    elif looks == "opens-each":
        pressed = [key for answer in pressed for key in ("Enter", "Escape", answer)]
    for _ in range(3):
        with _page() as shown:
            session = shown.context.new_cdp_session(shown)
            session.send("Performance.enable", {"timeDomain": "threadTicks"})
            shown.goto(page.resolve().as_uri())
            shown.wait_for_timeout(800)
            before = _spent(session)
            for key in pressed:
                shown.keyboard.press(key)
            shown.wait_for_timeout(200)
            seconds = _spent(session) - before
            print(
                f"{len(pressed)} keys, {seconds:.2f} s, {shown.text_content('#count')}", flush=True
            )


def _spent(session) -> float:
    """Seconds of the main thread."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return next(one["value"] for one in metrics if one["name"] == "TaskDuration")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for function, names in (
        (photos, ("cifar10", "human", "out")),
        (answer, ("run", "truth")),
        (keys, ("page",)),
    ):
        command = commands.add_parser(function.__name__)
        command.set_defaults(function=function)
        for name in names:
            command.add_argument(f"--{name}", type=pathlib.Path, required=True)
    command.add_argument("--looks", choices=("grid", "opens", "opens-each"), default="opens")
    arguments = vars(parser.parse_args())
    arguments.pop("command")
    arguments.pop("function")(**arguments)


if __name__ == "__main__":
    main()
