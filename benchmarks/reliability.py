"""Does `clean_prob` mean what it says? Predicted against observed.

    python benchmarks/reliability.py --features=photographs.npz --labels=aggre,rand1,worst

The cases are those of `real_label_errors.py`: iris, breast cancer, two drawn tables, and the
photographs of the file, with none to 40 % of the labels changed, and people's. Draws
`docs/figures/clean_prob.png`, and prints its bins: of all cases, and of people's labels alone.
"""

import argparse
import pathlib

import numpy as np
from real_label_errors import cases

from jaxrobust import find_label_issues
from jaxrobust.metrics import reliability_bins
from jaxrobust.report.figures import reliability_diagram


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=pathlib.Path, help=".npz file of photographs")
    parser.add_argument("--labels", default="", help="arrays of the file, separated by commas")
    parser.add_argument("--rows", default="600,2000", help="of the file, separated by commas")
    parser.add_argument("--sets", default="iris,breast_cancer,table,rare")
    parser.add_argument("--rates", default="0,0.05,0.1,0.2,0.4", help="of wrong labels")
    parser.add_argument("--out", type=pathlib.Path, default="docs/figures/clean_prob.png")
    arguments = parser.parse_args()
    vars(arguments).update(label_errors=None, titles=None, seed=0, num_seeds=1)
    people = arguments.labels.split(",")
    probs, rights, human = [], [], []
    for case in cases(arguments):
        found = find_label_issues(case.labels, features=case.features).clean_prob
        probs.append(found)
        rights.append(~case.is_wrong)
        human.append(np.full(len(found), case.name.rpartition(" ")[2] in people))
        print(f"{case.name}: {(1 - found).sum():.0f} expected, {case.is_wrong.sum()}", flush=True)
    prob, right, by_people = map(np.concatenate, (probs, rights, human))
    print(f"\n| labels of | | {' | '.join(f'{10 * b} to {10 * b + 10} %' for b in range(10))} |")
    print(f"|{'---|' * 12}")
    for name, rows in (("all", np.ones_like(right)), ("people", by_people)):
        bins = reliability_bins(prob[rows], right[rows])
        for said, key in (("said", "confidence"), ("right", "accuracy")):
            print(f"| {name} | {said}, % | {' | '.join(f'{100 * x:.1f}' for x in bins[key])} |")
        print(f"| {name} | labels | {' | '.join(f'{n:,}' for n in bins['count'])} |")
    reliability_diagram(
        reliability_bins(prob, right),
        arguments.out,
        title=f"clean_prob of {len(prob):,} labels of {len(probs)} cases",
        confidence="Probability that the label is right (%)",
        accuracy="Right labels (%)",
    )


if __name__ == "__main__":
    main()
