"""BUAL: bidirectional uncertainty-based active learning (ECCV 2024, arXiv 2402.15198).

    python -m jaxrobust.main --config=configs/bual.py --workdir=runs/bual
    python -m jaxrobust.main --config=configs/bual.py:digits --workdir=runs/digits

Variants: cifar10 (default), cifar100, tiny_imagenet, fashion_mnist, digits, image_folder. B-Margin
is the default; B-LC and B-Entropy are `--config.bual.base=lc` and `entropy`. The share of unknown
classes is `--config.al.openness` (0.2, 0.4, 0.6, 0.8 in the paper); the strategies that the paper
compares with run in the same loop with `--config.method=random`, `lc`, `margin`, `entropy`,
`coreset`, `badge`, `lfosa` or `eaoa`. A person instead of hidden labels: `--config.oracle=csv`.

Final accuracy (%) of B-Margin, the paper's Table 1, mean of 3 runs; openness 0.2, 0.4, 0.6, 0.8:

    CIFAR-10         86.5  87.0  92.6  98.9
    CIFAR-100        60.9  63.1  68.3  71.5
    Tiny-ImageNet    46.5  49.5  55.7  61.2

CIFAR-10 at openness 0.6, accuracy in cycles 1 to 8 read from its Fig. 6:

    62.8  72.9  80.3  86.4  88.0  90.2  91.5  92.6

Numbers are the paper's where paper and released code agree, else the code's; fields name the other.
"""

import ml_collections

from jaxrobust import recipes


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
    """Recipe for one data set; see the file's docstring."""
    dataset = recipes.variant(variant, default="cifar10")
    config = recipes.active_learning(dataset)
    config.task = "active_learning"
    config.method = "bual"
    config.al.score_transform = "train"  # the code scores augmented images
    config.bual = ml_collections.ConfigDict(
        {
            "base": "margin",  # confidence of both classifiers: or lc, entropy
            "score_rule": "code",  # paper: Eq. 3, which rewards what looks unknown
            "initial_precision": 0.0,  # r of the first query
            "aux_epochs": config.get_oneway_ref("num_epochs"),
            "aux_batch_size": 100,  # paper: 128
            "aux_filter": True,  # images that f_aux calls unknown are no candidates
            "nl_epochs": config.get_oneway_ref("num_epochs"),  # and one more, as in the code
            "nl_batch_size": config.get_oneway_ref("batch_size"),
            "nl_trainable": "all",  # head: the backbone stays that of f_p
            "prob_floor": 1e-5,  # of 1 - p in the loss; paper: 0
            "eval_interval": 5,  # epochs between the evaluations of f_n
            "nl_eval_at_start": True,  # the first of them before any negative learning
            "subset_size": 5000,  # pool images that negative learning sees in a round
            "subset_mode": "uniform",  # stratified: the code's draw, which looks at hidden labels
            "subset_after_filter": False,  # True: Algorithm 1, without images called unknown
            # overlap: until the chosen set stays the same 5 evaluations in a row; oracle: until
            # its number of known images does, the code's rule, which looks at hidden labels
            "stop_rule": "none",
        }
    )
    match dataset:
        case "tiny_imagenet":
            config.bual.subset_size = 10000
            config.model.pool = "window4"
        case "digits":
            config.bual.aux_batch_size = 32
            config.bual.subset_size = 400
    return config
