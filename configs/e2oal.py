"""E2OAL: unknown clusters and a target precision (CVPR 2026); docs/methods/e2oal.md.

python -m jaxrobust.main --config=configs/e2oal.py:digits --workdir=runs/e2oal
"""

from jaxrobust.recipes.e2oal import ABLATIONS, PROTOCOL, get_config

__all__ = ["ABLATIONS", "PROTOCOL", "get_config"]
