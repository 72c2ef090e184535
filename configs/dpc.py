"""DPC: Dirichlet-based prediction calibration (AAAI 2024); docs/methods/dpc.md.

python -m jaxrobust.main --config=configs/dpc.py:digits --workdir=runs/dpc
"""

from jaxrobust.recipes.dpc import ABLATIONS, SETTINGS, get_config

__all__ = ["ABLATIONS", "SETTINGS", "get_config"]
