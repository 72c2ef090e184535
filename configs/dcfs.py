"""DCFS: Dirichlet-based coarse-to-fine example selection for open-set annotation.

    python -m jaxrobust.main --config=configs/dcfs.py --workdir=runs/dcfs
    python -m jaxrobust.main --config=configs/dcfs.py:digits --workdir=runs/digits

Variants: cifar10 (default), cifar100, tiny_imagenet, fashion_mnist, digits, image_folder, features
(of a frozen network, `--config.dataset.features=`), each with 60 % of the classes unknown; for the
first three and features also as in `cifar10_openness_0.2` (0.4, 0.6, 0.8).
Other strategies run in the same loop with `--config.method=random` or `entropy`.

The method (arXiv 2409.17607) is a reconstruction: of the paper only the abstract was available, and
there is no public code. Each option in `jaxrobust/recipes/dcfs_options.py` says where its value is
from: [abstract], [family] (the sibling method named), or [ours]. The paper's tables could not be
read, so no reproduction of them is claimed. The default query (of the part of the pool of least
distribution uncertainty, whose size follows the precision of the queries, the smallest margins of
the target) is the simplest of the best that were compared on features of photographs, over ten
seeds: docs/results.md.
"""

from jaxrobust.recipes.dcfs import get_config

__all__ = ["get_config"]
