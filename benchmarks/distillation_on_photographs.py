"""Students of photographs, alone and under a teacher that is a linear head on frozen features.

    python benchmarks/distillation_on_photographs.py --images=DIR --train=features.npz \
        --test=features.npz --num_epochs=10 --out=photographs --seeds 0 1 2

DIR holds `train/CLASS/*` and `test/CLASS/*`; the files of `jaxrobust.embed DIR --views=2` hold the
features of both parts, in one file or in two. The teacher is the logistic regression that
`teacher.train=head` fits; what it says of each image and its mirror image is looked up by the
methods, in runs that differ in nothing else. A finished run is not repeated.

Prints, of every method, the mean and standard deviation over seeds of the last epoch's test
accuracy and calibration error and of the agreement with the teacher's classes, and the seconds of a
run; of every run what the gradients of the losses did in the last epoch.
"""

import argparse
import csv
import json
import pathlib
import time

import jax
import numpy as np

from jaxrobust import load_classifier
from jaxrobust.data import load_dataset
from jaxrobust.engine.environment import setup_jax
from jaxrobust.metrics import expected_calibration_error
from jaxrobust.models.linear_head import fit_linear_head
from jaxrobust.recipes import dhkd
from jaxrobust.recipes.parse import parse
from jaxrobust.tasks import distillation
from jaxrobust.tasks.teachers import TeacherLogits

METHODS = {
    "student alone": {"method": "cross_entropy"},
    "KD": {"method": "kd"},
    "KD, standardised logits": {
        "method": "kd",
        "kd.standardize": True,
        "kd.weight": 9.0,
        "kd.temperature": 2.0,
    },
    "DKD": {"method": "dkd"},
    "BinaryKL alone": {"method": "binary_kl"},
    "cross-entropy + BinaryKL, one head": {"method": "cross_entropy_binary_kl"},
    "DHKD": {"method": "dhkd"},
}


def recipe(fields: dict, args: argparse.Namespace, seed: int):
    config = dhkd.get_config("image_folder")
    epochs = args.num_epochs
    changes = {
        "dataset.path": str(args.images),
        "dataset.image_size": args.size,
        "augment.padding": args.size // 8,
        "student.name": args.student,
        "teacher.logits": "table",
        "num_epochs": epochs,
        "optimizer.schedule": "cosine",
        "num_diagnosed": 256,
        "dkd.warm_up": max(epochs // 12, 1),  # 20 of 240 epochs
        "seed": seed,
        **fields,
    }
    for name, value in changes.items():
        section, _, field = name.rpartition(".")
        setattr(config[section] if section else config, field, value)
    if config.method == "cross_entropy":
        config.teacher.logits = "step"
    config.writers = ()
    return config


def aligned(path: pathlib.Path, files: tuple[str, ...]) -> np.ndarray:
    """Features [N, V, D] of a file, in the order of the images."""
    with np.load(path) as arrays:
        place = {name: i for i, name in enumerate(arrays["files"].tolist())}
        return arrays["features"][[place[name] for name in files]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=pathlib.Path, required=True)
    parser.add_argument("--train", type=pathlib.Path, required=True)
    parser.add_argument("--test", type=pathlib.Path, required=True)
    parser.add_argument("--student", default="resnet8")
    parser.add_argument("--size", type=int, default=32, help="side of the student's images")
    parser.add_argument("--num_epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()

    dataset = load_dataset("image_folder", path=str(args.images), image_size=args.size)
    features = [
        aligned(path, part.files)
        for path, part in ((args.train, dataset.train), (args.test, dataset.test))
    ]
    labels = dataset.test.labels
    args.out.mkdir(parents=True, exist_ok=True)
    if not (args.out / "teacher.npz").exists():
        started = time.perf_counter()
        head = fit_linear_head(features[0], dataset.train.labels, num_classes=dataset.num_classes)
        print(f"teacher: C = {head.strength}, fitted in {time.perf_counter() - started:.0f} s")
        np.savez(args.out / "teacher.npz", train=head(features[0]), test=head(features[1])[:, 0])
    with np.load(args.out / "teacher.npz") as arrays:
        told = TeacherLogits("linear head", arrays["train"], arrays["test"])
    probs = np.asarray(jax.nn.softmax(told.test))
    hits = {
        "test images": probs.argmax(axis=1) == labels,
        "training images": told.train[:, 0].argmax(axis=1) == dataset.train.labels,
    }
    accuracies = ", ".join(f"{100 * x.mean():.2f} % of {name}" for name, x in hits.items())
    error = 100 * expected_calibration_error(probs, labels)
    print(f"teacher: {accuracies}, calibration error {error:.1f} %", flush=True)
    rows = {name: [] for name in args.methods}
    for seed in args.seeds:
        for name in args.methods:
            fields = METHODS[name]
            folder = args.out / f"{name.replace(' ', '_').replace(',', '')}-{seed}"
            config = recipe(fields, args, seed)
            record = folder / "measured.json"
            if not record.exists():
                setup_jax(parse(config))
                teacher = None if fields["method"] == "cross_entropy" else told
                results = distillation.run(parse(config), folder, dataset=dataset, teacher=teacher)
                predicted = load_classifier(folder / "student").predict(dataset.test.images)
                classes = np.array(dataset.class_names)
                measured = {
                    "accuracy": results["last"]["accuracy"],
                    "ece": results["last"]["ece"],
                    "agreement": float(np.mean(predicted == classes[told.test.argmax(axis=1)])),
                    "diagnosis": results["last"].get("diagnosis"),
                    "seconds": json.loads((folder / "timing.json").read_text())["seconds"],
                }
                record.write_text(json.dumps(measured))
            measured = json.loads(record.read_text())
            rows[name].append(measured)
            print(
                seed,
                name,
                {k: measured[k] for k in ("accuracy", "ece", "agreement", "seconds")},
                measured["diagnosis"],
                flush=True,
            )
    with open(args.out / "table.csv", "w", newline="") as file:
        table = csv.writer(file)
        for name, found in rows.items():
            values = [
                f"{100 * np.mean([x[key] for x in found]):.2f} ± "
                f"{100 * np.std([x[key] for x in found]):.2f}"
                for key in ("accuracy", "ece", "agreement")
            ]
            row = [name, *values, f"{np.mean([x['seconds'] for x in found]):.0f}"]
            table.writerow(row)
            print(*row, sep=" | ")


if __name__ == "__main__":
    main()
