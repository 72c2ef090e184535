"""The strategies that open-set annotation papers compare with, under BUAL's protocol.

    python -m jaxrobust.main --config=configs/active_learning_baselines.py \
        --config.method=margin --workdir=runs/margin

Methods: random (default), lc, margin, entropy, coreset, badge, typiclust, probcover, dropquery,
lfosa, eaoa. Variants: those of `configs/bual.py`; what they reproduce is Table 1 of BUAL (ECCV
2024), the accuracy (%) after the seventh query, mean of 3 runs, in the columns `DATASET_openness_`
0.2, 0.4, 0.6, 0.8:

                 cifar10                 cifar100                tiny_imagenet
    random       83.3 82.5 87.2 96.9     57.6 58.3 58.7 61.2     45.7 47.2 50.9 55.0
    lc           84.3 81.6 87.5 96.2     55.8 54.6 54.0 56.2     44.8 45.9 48.4 51.6
    margin       86.0 84.1 89.0 97.0     59.3 59.6 58.8 58.9     46.4 47.1 50.8 54.0
    entropy      85.4 83.4 88.0 96.8     57.1 56.8 55.7 56.4     44.6 44.5 46.9 50.7
    coreset      85.0 81.8 86.4 97.4     60.2 61.2 61.8 64.2     46.2 47.8 51.8 54.0
    badge        86.8 84.2 89.2 96.4     60.2 60.8 60.4 62.0     46.3 47.8 51.8 53.3
    lfosa        73.7 78.7 87.0 98.6     52.3 56.6 62.4 68.2     42.5 46.6 52.4 59.9

How LfOSA was trained there is not said; its own paper has `--config.optimizer.schedule=step
--config.optimizer.decay_every=20 --config.optimizer.weight_decay=5e-4`. EAOA (CVPR 2025) came later
and used another protocol: 200 epochs with the rate halved every 60, weight decay 5e-4 and a thin
ResNet-18 (`--config.model.name=resnet18_thin`).
"""

from jaxrobust.recipes.active_learning_baselines import get_config

__all__ = ["get_config"]
