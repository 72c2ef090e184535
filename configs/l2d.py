"""L2D: multi-label knowledge distillation (ICCV 2023); docs/methods/l2d.md.

python -m jaxrobust.main --config=configs/l2d.py:digits --workdir=runs/l2d
"""

from jaxrobust.recipes.l2d import get_config

__all__ = ["get_config"]
