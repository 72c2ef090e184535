"""`results.json` of small runs, written by hand, for the tests of reports and comparisons."""


def active_learning(method, *, seed=0, shift=0.0, dataset="digits"):
    """Three rounds, of which the last has no query; `shift` is added to every accuracy."""
    rounds = [
        {
            "round": i,
            "accuracy": 0.5 + 0.1 * i + shift,
            "num_labeled_known": 10 + 20 * i,
            "num_labeled_unknown": 10 * i,
            **({"query": {"size": 30, "precision": 0.6, "recall": 0.1 * i}} if i < 2 else {}),
        }
        for i in range(3)
    ]
    return {
        "task": "active_learning",
        "method": method,
        "dataset": dataset,
        "seed": seed,
        "num_known_classes": 4,
        "num_classes": 10,
        "last": {"accuracy": 0.7 + shift},
        "mean_accuracy": 0.6 + shift,
        "area_under_accuracy_curve": 0.6 + shift,
        "mean_query_precision": 0.6,
        "last_query_recall": 0.1,
        "rounds": rounds,
    }


def noisy_labels(method, *, seed=0, accuracy=0.9, rate=0.4):
    """Three epochs that are alike."""
    labels = {"f1": 0.8, "precision": 0.7, "recall": 0.9, "auroc_clean_prob": 0.95}
    epochs = [{"epoch": i, "accuracy": accuracy, "ece": 0.1, "labels": labels} for i in range(3)]
    return {
        "task": "noisy_labels",
        "method": method,
        "dataset": "digits",
        "seed": seed,
        "noise": {"kind": "symmetric", "rate": rate, "realised_rate": 0.36},
        "last": epochs[-1],
        "best": {"accuracy": accuracy},
        "last_epochs": {"num": 3, "accuracy": accuracy, "ece": 0.1, "labels": labels},
        "epochs": epochs,
    }


def distillation(method, *, seed=0, accuracy=0.9, student="resnet8", cosines=False, measures=None):
    """Three epochs that are alike.

    Args:
      method: name.
      seed: of the run.
      accuracy: of the student.
      student: name of its network.
      cosines: whether there is a teacher whose gradients were compared.
      measures: of every epoch, in place of `accuracy` and its companions.
    """
    diagnosis = {"head": {"etf_deviation": 0.5}}
    if cosines:
        diagnosis["binary_kl"] = {"head_cosine": -0.1, "backbone_cosine": 0.1}
    measures = measures or {"accuracy": accuracy, "ece": 0.1, "diagnosis": diagnosis}
    epochs = [{"epoch": i, **measures} for i in range(3)]
    return {
        "task": "distillation",
        "method": method,
        "dataset": "digits",
        "seed": seed,
        "num_classes": 3,
        "student": {"name": student, "num_parameters": 1234},
        "teacher": {"name": "resnet14", **measures} if cosines else None,
        "last": epochs[-1],
        "best": {name: epochs[-1][name] for name in ("accuracy", "mAP") if name in measures},
        "epochs": epochs,
    }
