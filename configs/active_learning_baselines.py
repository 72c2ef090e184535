"""The annotation strategies that BUAL and DCFS are compared with; docs/methods/all.md.

    python -m jaxrobust.main --config=configs/active_learning_baselines.py:digits \\
        --config.method=margin \\
        --workdir=runs/baseline
"""

from jaxrobust.recipes.active_learning_baselines import get_config

__all__ = ["get_config"]
