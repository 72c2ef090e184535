"""The section of a report about the quality of a data set, from `health.json`."""

from typing import Any

from jaxrobust.report.markup import details, paragraph, percent, table
from jaxrobust.report.run_files import RunFiles, read_json

_NUM_CLASSES = 20


def health(run: RunFiles) -> list[str]:
    """Healthy fraction, classes, duplicates and outliers; empty if there is no `health.json`."""
    found = read_json(run.workdir / "health.json")
    if not found:
        return []
    means = found["definitions"]
    rows: list[tuple[str, Any, str]] = [
        ("suspicious labels", found["num_suspicious"], means["suspicious"])
    ]
    for name in ("exact_duplicates", "near_duplicates"):
        counts = found[name]
        if counts is not None:
            kind = name.replace("_", " ")
            rows += [
                (f"{kind} in training", counts["within_train"], means[name]),
                (f"{kind} in training and test", counts["train_and_test"], ""),
                (f"{kind} with another label", counts["with_another_label"], ""),
            ]
    if found["outliers"] is not None:
        rows.append(("outliers", found["outliers"], means["outliers"]))
    classes = sorted(found["classes"], key=lambda x: -x["suspicious_fraction"])
    confused = [[x["given"], x["suggested"], x["images"]] for x in found["most_confused"]]
    return [
        details(
            "Health of the data set",
            paragraph(
                f"{percent(found['healthy_fraction'])} % of {found['num_train']:,} training images "
                f"are healthy: {means['healthy_fraction']}."
            ),
            table(
                "Findings; health.csv names the images",
                ["finding", "images", "what it is"],
                [[name, count, meaning or "–"] for name, count, meaning in rows],
                stacked=True,
            ),
            table(
                f"Classes with the largest share of suspicious labels, of {len(classes)}",
                ["class", "images", "suspicious", "% of the class"],
                [
                    [x["class"], x["images"], x["suspicious"], percent(x["suspicious_fraction"])]
                    for x in classes[:_NUM_CLASSES]
                ],
                numeric=True,
            ),
            table("Most confused", ["given", "suggested", "images"], confused, numeric=True)
            if confused
            else "",
            is_open=True,
        )
    ]
