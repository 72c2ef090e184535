"""`jaxrobust query`: chooses what to annotate next, from files of arrays."""

import pathlib

from jaxrobust.commands.array_arguments import (
    FEATURES_HELP,
    add_training,
    check_exists,
    features,
    is_npz,
    training,
)
from jaxrobust.commands.parser import Parser, new_file
from jaxrobust.data.array_files import open_arrays
from jaxrobust.data.features import read_labels
from jaxrobust.data.tables import escape_formula


def main(argv: list[str] | None = None) -> int:
    """`jaxrobust query`; returns the exit code."""
    parser = Parser(
        "query",
        description="Chooses examples to annotate; some may belong to none of the classes.",
        epilog=(
            "In a .csv file of annotations, the column 'label' is read, or the only column: the "
            "name of a class, empty if not annotated, 'unknown' for none of the classes. "
            "Numbers are classes from 0, -1 if not annotated, -2 for none of the classes."
        ),
    )
    parser.add_argument("features", type=pathlib.Path, help=FEATURES_HELP)
    parser.add_argument(
        "annotations", type=pathlib.Path, help=".csv or .npy file, a row for each example"
    )
    parser.add_argument("--budget", type=int, required=True, help="number of examples to choose")
    parser.add_argument("--out", type=new_file, default="query.csv", help="table to write")
    add_training(parser, "for annotation; default: bual, or margin with a single class")
    arguments = parser.parse_args(argv)
    from jaxrobust.api.querying import query as choose
    from jaxrobust.engine.files import format_number, write_table

    rows = features(arguments.features)
    check_exists(arguments.annotations)
    annotations = read_labels(arguments.annotations)
    options = {name: x for name, x in training(arguments).items() if x is not None}
    result = choose(annotations, features=rows, budget=arguments.budget, **options)
    files = open_arrays(arguments.features).get("files") if is_npz(arguments.features) else None
    files = None if files is None or len(files) != len(annotations) else files
    names = result.class_names
    header = ["id", *([] if files is None else ["file"]), "predicted_label", *result.scores]
    table: list[list] = [header]
    for i in result.ids:
        file = [] if files is None else [escape_formula(str(files[i]))]
        predicted = escape_formula(names[result.pred_probs[i].argmax()]) if names else ""
        scores = [format_number(column[i]) for column in result.scores.values()]
        table.append([int(i), *file, predicted, *scores])
    write_table(arguments.out, table)
    print(f"{len(result)} examples to annotate, in order of choice: {arguments.out}")
    if gain := result.summary["next_query"]:
        print(gain["text"])
    return 0
