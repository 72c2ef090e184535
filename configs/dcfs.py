"""DCFS: Dirichlet-based coarse-to-fine example selection (2024); docs/methods/dcfs.md.

python -m jaxrobust.main --config=configs/dcfs.py:digits --workdir=runs/dcfs
"""

from jaxrobust.recipes.dcfs import get_config

__all__ = ["get_config"]
