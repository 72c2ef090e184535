"""DHKD: dual-head knowledge distillation (KDD 2025); docs/methods/dhkd.md.

python -m jaxrobust.main --config=configs/dhkd.py:digits --workdir=runs/dhkd
"""

from jaxrobust.recipes.dhkd import get_config

__all__ = ["get_config"]
