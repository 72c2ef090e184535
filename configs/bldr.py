"""BLDR: bidirectional learning with dynamic reweighting (LMNL 2022); docs/methods/bldr.md.

python -m jaxrobust.main --config=configs/bldr.py:digits --workdir=runs/bldr
"""

from jaxrobust.recipes.bldr import ABLATIONS, SETTINGS, get_config

__all__ = ["ABLATIONS", "SETTINGS", "get_config"]
