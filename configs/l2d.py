"""L2D: multi-label knowledge distillation (ICCV 2023).

python -m jaxrobust.main --config=configs/l2d.py:coco_resnet101_resnet34 --workdir=runs/l2d
python -m jaxrobust.main --config=configs/l2d.py:digits --workdir=runs/digits
"""

import ml_collections

from jaxrobust import recipes


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
    """Recipe for one of `recipes.MULTILABEL_DISTILLATIONS`; see the file's docstring."""
    config = recipes.multilabel_distillation(variant)
    config.task = "distillation"
    config.method = "l2d"
    return config
