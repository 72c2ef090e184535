"""BUAL: bidirectional uncertainty-based active learning (ECCV 2024); docs/methods/bual.md.

python -m jaxrobust.main --config=configs/bual.py:digits --workdir=runs/bual
"""

from jaxrobust.recipes.bual import ABLATIONS, get_config

__all__ = ["ABLATIONS", "get_config"]
