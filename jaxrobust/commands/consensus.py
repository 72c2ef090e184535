"""`jaxrobust consensus`: labels from the votes of several annotators, from files."""

import pathlib
import sys

import numpy as np

from jaxrobust.api.consensus import CONSENSUS_FILE, consensus
from jaxrobust.commands.array_arguments import FEATURES_HELP, features
from jaxrobust.commands.parser import Parser
from jaxrobust.data.features import open_arrays
from jaxrobust.data.votes import read_votes
from jaxrobust.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """`jaxrobust consensus`; returns the exit code."""
    parser = Parser(
        "consensus",
        description="Finds the label of each item from the votes of several people.",
        epilog=(
            "The table has the columns item, annotator and vote, or the items in its first "
            "column and one further column for each annotator, with empty cells or -1 for no "
            "vote. If the file of features names its rows in `files`, items are matched by "
            "these names; otherwise row i belongs to the i-th item in order of first appearance."
        ),
    )
    parser.add_argument("votes", type=pathlib.Path, help=".csv file")
    parser.add_argument("--features", type=pathlib.Path, help=FEATURES_HELP)
    parser.add_argument("--class-names", help="names of all classes, separated by commas")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the held-out votes")
    parser.add_argument(
        "--ask", type=int, metavar="N", help="list N items that need another opinion"
    )
    parser.add_argument("--out", type=pathlib.Path, default=CONSENSUS_FILE, help="table to write")
    arguments = parser.parse_args(argv)
    votes, items, annotators = read_votes(arguments.votes)
    found = consensus(
        votes,
        items=items,
        annotators=annotators,
        features=None if arguments.features is None else _rows(arguments.features, items),
        class_names=arguments.class_names.split(",") if arguments.class_names else None,
        seed=arguments.seed,
        progress=sys.stderr.isatty(),
    )
    found.save(arguments.out)
    summary = found.summary
    print(
        f"{summary['num_items']:,} items, {summary['num_votes']:,} votes of "
        f"{summary['num_annotators']:,} annotators: {100 * summary['expected_error']:.1f} % of the "
        "labels are probably wrong."
    )
    print(f"every label, the most doubtful first: {arguments.out}")
    print(f"the annotators, the least accurate first: {arguments.out.with_name('annotators.csv')}")
    if arguments.ask is not None:
        print("items that need another opinion, the most useful first:")
        for i in found.ask(arguments.ask):
            print(f"  {found.items[i]}")
    return 0


def _rows(path: pathlib.Path, items: list[str]) -> np.ndarray:
    """Features of the items in order of first appearance."""
    array = features(path)
    files = open_arrays(path).get("files") if path.suffix == ".npz" else None
    order = list(dict.fromkeys(items))
    if files is None or not set(order) & set(files.tolist()):
        return array
    place = {name: i for i, name in enumerate(files.tolist())}
    if missing := [item for item in order if item not in place]:
        raise UserError(f"{path} has no features for the item {missing[0]!r}; embed it as well.")
    return array[[place[item] for item in order]]
