"""The section of a page that is specific to a task: queries, suspicious labels, the teacher."""

import pathlib
import shlex

import numpy as np

from jaxrobust.report import figures
from jaxrobust.report.figure_text import score_words
from jaxrobust.report.health_section import health
from jaxrobust.report.markup import (
    Images,
    commands,
    details,
    paragraph,
    percent,
    side_by_side,
    table,
)
from jaxrobust.report.run_files import RunFiles, read_json, read_rows, to_numbers

_NUM_SUSPICIOUS = 20


def queries(run: RunFiles, slug: str, images: Images) -> list[str]:
    """Rounds of active learning: measures, scores and images of each query."""
    rounds = run.results["rounds"] if run.results else _rounds_so_far(run.events)
    aurocs = list(
        dict.fromkeys(k for r in rounds for k in r.get("query", {}) if k.startswith("auroc_"))
    )
    header = ["round", "accuracy", "labels of wanted classes", "labels unknown", "asked about"]
    header += ["of wanted classes", "found, of all wanted ones"]
    rows = []
    for entry in rounds:
        query = entry.get("query", {})
        measures = [query.get(name) for name in ("precision", "recall")]
        rows.append(
            [
                entry["round"],
                percent(entry["accuracy"]) if "accuracy" in entry else "–",
                int(entry["num_labeled_known"]),
                int(entry["num_labeled_unknown"]),
                int(query["size"]) if query else "–",
                *("–" if value is None else percent(value) for value in measures),
            ]
        )
    # What nobody knows, as recall with a person as oracle, is no column.
    known = [n for n in range(len(header)) if any(row[n] != "–" for row in rows)]
    rows = [[row[n] for n in known] for row in rows]
    header = [header[n] for n in known]
    parts = [table("Rounds (measures in percent)", header, rows, numeric=True)] if rows else []
    if aurocs:
        cells = [[r.get("query", {}).get(name) for r in rounds] for name in aurocs]
        words = [score_words(name.removeprefix("auroc_")) for name in aurocs]
        told = [
            [text, *(_or_dash(value, percent) for value in values)]
            for text, values in zip(words, cells, strict=True)
        ]
        caption = "Share of pairs in which the unknown image scores higher (AUROC, %)"
        header = ["score", *(f"round {entry['round']}" for entry in rounds)]
        of_scores = table(caption, header, told, numeric=True)
        parts.append(details("Do the scores separate unknown images?", of_scores))
    if gain := (run.results or {}).get("last_queries"):
        text = gain["text"]
        parts.append(paragraph(f"{text[0].upper()}{text[1:]} (standard error, of this one run)."))
    by_person = run.config.get("oracle") != "truth"
    tables = sorted((run.workdir / "queries").glob("round_??.csv"))
    for file in tables:
        parts.append(
            details(
                f"Query of round {int(file.stem[-2:])}",
                images.link(
                    file.with_suffix(".html"),
                    f"The page on which to annotate them, {file.stem}.html",
                ),
                commands(f"jaxrobust review {shlex.quote(str(run.workdir))}")
                if file == tables[-1] and run.results is None and by_person
                else "",
                _score_histograms(file, slug, images),
                images.found(
                    file.with_suffix(".png"),
                    f"{file.stem}_{slug}",
                    f"Images of the query, in order of choice; they are listed in {file.name}.",
                    "The first images of the query, in order of choice, with the answers: green of "
                    "a known class, orange unknown."
                    if not by_person
                    else (
                        f"The queried images, by their line in {file.name}; answers are green, "
                        "“unknown” orange."
                    ),
                    "photos",
                ),
                is_open=file == tables[-1],
            )
        )
    return parts


def _score_histograms(table: pathlib.Path, slug: str, images: Images) -> str:
    file = table.with_name(f"{table.stem}_scores.csv")
    rows = read_rows(file)
    if len(rows) < 2:
        return ""
    names, values = np.array([row[0] for row in rows[1:]]), to_numbers(file, rows, 1)
    scores = {
        str(name): dict(zip(rows[0][1:], values[names == name].T, strict=True))
        for name in dict.fromkeys(names)
    }
    told = [f"{score_words(name)} ({name})" for name in scores]
    return images.plot(
        f"scores_{table.stem}_{slug}",
        f"Histograms over the pool and over the chosen images: {'; '.join(told)}.",
        "Distribution of the scores over the pool and over the chosen images",
        lambda path, columns: figures.query_histograms(scores, path, columns=columns),
    )


def _rounds_so_far(events: list[dict]) -> list[dict]:
    rounds: dict[int, dict] = {}
    for event in events:
        if event["split"] == "test":
            rounds[event["round"]] = dict(event)
        elif event["split"] == "query":
            rounds[event["round"]]["query"] = event
    return list(rounds.values())


def suspicions(run: RunFiles, slug: str, images: Images) -> list[str]:
    """Labels that look wrong, and the scores by which they were found."""
    folder = run.workdir / "figures"
    known = ("epochs", "reliability", "confusion", "suspicious")
    scores = [p for p in sorted(folder.glob("*.png")) if p.stem not in known]
    parts = [
        images.found(
            path,
            f"{path.stem}_{slug}",
            f"Histogram over the training images: {score_words(path.stem)} ({path.stem}).",
            "The score by which the method separates correct labels from wrong ones",
            "wide plot",
        )
        for path in scores
    ]
    noise = read_json(run.workdir / "noise.json")
    if noise and noise["kind"] != "none":
        matrix = images.drawn(
            f"noise_{slug}",
            "Share of every given label among the images of each true class.",
            f"Given labels by true class: {noise['kind']} noise, "
            f"{percent(noise['realised_rate'])} % are wrong",
            lambda path: figures.confusion_matrix(
                np.array(noise["transition"]),
                noise["class_names"],
                path,
                title="Given labels, % of each true class",
                column_title="Given label",
            ),
        )
        parts.append(details("The noise", side_by_side(matrix)))
    parts.insert(
        0,
        images.link(
            run.workdir / "label_review.html",
            "The page on which to review the labels that look wrong, label_review.html",
        ),
    )
    parts.insert(
        1,
        images.found(
            folder / "suspicious.png",
            f"suspicious_{slug}",
            "The images with the most suspicious labels; the table names them.",
            "The most suspicious labels: given, and suggested"
            + (
                ""
                if not noise or noise["kind"] == "none"
                else "; orange where the given label is wrong"
            ),
            "photos",
        ),
    )
    if counts := (run.results or {}).get("label_counts"):
        share = percent(counts["agreement"])
        parts.insert(
            0, paragraph(f"Judges that did not see a label agree with {share} % of the labels.")
        )
    header, *rows = read_rows(run.workdir / "label_quality.csv") or [[]]
    wanted = ("id", "file", "given_label", "suggested_label", "clean_prob", "true_label")
    shown = [header.index(name) for name in wanted if name in header]
    if rows:
        parts.append(
            details(
                f"The {min(_NUM_SUSPICIOUS, len(rows))} most suspicious of {len(rows)} labels",
                table(
                    "All are in label_quality.csv",
                    [header[i].replace("_", " ") for i in shown],
                    ([row[i] for i in shown] for row in rows[:_NUM_SUSPICIOUS]),
                ),
            )
        )
    return [*parts, *health(run)]


def teaching(run: RunFiles, slug: str, images: Images) -> list[str]:
    """Measures and cost of every network, and their accuracy on each class."""
    del slug, images
    if run.results is None:
        return []
    results = run.results
    last = {k: v for k, v in results["last"].items() if isinstance(v, float)}
    alone = results.get("student_alone")
    networks = {"teacher": results["teacher"], "student": {**results["student"], **last}}
    if alone:
        networks["student_alone"] = {"name": results["student"]["name"], **alone["last"]}
    networks = {role: values for role, values in networks.items() if values}
    titles = {role: f"{role.replace('_', ' ')} {x['name']}" for role, x in networks.items()}
    parts = [
        table(
            "On the test images after the last epoch (%)",
            ["", *(name.replace("_", " ") for name in last)],
            [
                [titles[role], *(_or_dash(values.get(name), percent) for name in last)]
                for role, values in networks.items()
            ],
            numeric=True,
        )
    ]
    if "agreement" in results:
        share = percent(results["agreement"])
        parts.append(
            paragraph(f"Student and teacher name the same class of {share} % of the test images.")
        )
    parts.append(_costs(run, networks, titles))
    return [*parts, _classes(results)]


def _or_dash(value, shown) -> str:
    return "–" if value is None else shown(value)


def _costs(run: RunFiles, networks: dict, titles: dict) -> str:
    """Size and speed of teacher and student."""
    latency = read_json(run.workdir / "latency.json") or {}
    batches = sorted({batch for times in latency.values() for batch in times}, key=int)
    columns = {
        "num_parameters": ("parameters", "{:,}".format),
        "megabytes": ("MB in float32", "{:.2f}".format),
        "gflop": ("GFLOP per image", "{:.3f}".format),
    }
    rows = []
    for role in ("teacher", "student"):
        if role in networks:
            values = [_or_dash(networks[role].get(k), shown) for k, (_, shown) in columns.items()]
            times = latency.get(role, {})
            values += [_or_dash(times.get(batch), "{:.2f}".format) for batch in batches]
            rows.append([titles[role], *values])
    header = [title for title, _ in columns.values()]
    header += [f"ms for {batch} on the CPU" for batch in batches]
    return table("Cost of the networks", ["", *header], rows, numeric=True)


def _classes(results: dict) -> str:
    """Accuracy of every network on each class, the largest losses of the student first."""
    classes = results.get("classes")
    if not classes:
        return ""
    roles = [role for role in ("teacher", "student", "student_alone") if role in classes[0]]
    if "teacher" in roles:
        classes = sorted(classes, key=lambda row: row["student"] - row["teacher"])
    return details(
        "Accuracy by class",
        table(
            "Accuracy on the test images of each class (%), the largest losses first",
            ["class", "test images", *(role.replace("_", " ") for role in roles)],
            [
                [row["class"], row["test_images"], *(percent(row[role]) for role in roles)]
                for row in classes
            ],
            numeric=True,
        ),
    )


TASK_SECTIONS = {
    "active_learning": ("Queries", queries),
    "noisy_labels": ("Suspicious labels", suspicions),
    "distillation": ("Student and teacher", teaching),
}
"""Task -> title of its section, and `(run, file stem, images) -> parts`."""
