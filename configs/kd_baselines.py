"""The distillation losses that DHKD is compared with; docs/methods/all.md.

    python -m jaxrobust.main --config=configs/kd_baselines.py:digits --config.method=dkd \\
        --workdir=runs/baseline
"""

from jaxrobust.recipes.kd_baselines import get_config

__all__ = ["get_config"]
