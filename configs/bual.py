"""BUAL: bidirectional uncertainty-based active learning (ECCV 2024, arXiv 2402.15198).

    python -m jaxrobust.main --config=configs/bual.py:cifar10_openness_0.8 --workdir=runs/bual
    python -m jaxrobust.main --config=configs/bual.py:digits --workdir=runs/digits

Variants: cifar10 (default), cifar100, tiny_imagenet, fashion_mnist, digits, image_folder and
features (of a frozen network, `--config.dataset.features=`; also features_openness_0.4 and so on),
each with 60 % of the classes unknown, and every setting of the paper's Table 1 under its own name.
That table, the accuracy (%) of B-Margin after the seventh query, mean of 3 runs, and the number of
known classes, of images labelled at the start, and of known and unknown images in the pool:

                                 accuracy    known    labelled    pool
    cifar10_openness_0.2             86.5        8         400    39,600 + 10,000
    cifar10_openness_0.4             87.0        6         300    29,700 + 20,000
    cifar10_openness_0.6             92.6        4         200    19,800 + 30,000
    cifar10_openness_0.8             98.9        2         100     9,900 + 40,000
    cifar100_openness_0.2            60.9       80       3,200    36,800 + 10,000
    cifar100_openness_0.4            63.1       60       2,400    27,600 + 20,000
    cifar100_openness_0.6            68.3       40       1,600    18,400 + 30,000
    cifar100_openness_0.8            71.5       20         800     9,200 + 40,000
    tiny_imagenet_openness_0.2       46.5      160       6,400    73,600 + 20,000
    tiny_imagenet_openness_0.4       49.5      120       4,800    55,200 + 40,000
    tiny_imagenet_openness_0.6       55.7       80       3,200    36,800 + 60,000
    tiny_imagenet_openness_0.8       61.2       40       1,600    18,400 + 80,000

With `--config.bual.base=lc` and `entropy` the table's rows B-LC and B-Entropy, in the same order:

    lc         87.0 87.2 92.5 99.1    59.3 62.8 67.5 72.1    45.7 48.7 54.7 60.6
    entropy    86.9 87.4 92.6 99.1    58.9 61.7 66.9 71.4    45.4 47.5 55.2 61.0

Its Table 2, openness 0.6 and base LC, in the columns cifar10, cifar100, tiny_imagenet, by variants
such as `cifar10_unc_n`; whether images that f_aux calls unknown stayed out (`bual.aux_filter`) is
not said:

    --config.method=lc    87.5 54.0 48.4    c_p
    _unc_n                89.4 63.5 52.3    c_n
    _unweighted           90.8 62.4 52.0    c_n + c_p
    _no_aux_weight        91.3 65.0 53.0    c_n + r c_p
    --config.bual.base=lc 92.5 67.5 54.7    the method

Its Fig. 6, accuracy of B-Margin on the initial set and after each query, read to 0.1:

    cifar10_openness_0.4          48.8 59.2 71.1 77.8 81.4 84.6 85.8 87.0
    cifar10_openness_0.6          62.8 72.9 80.3 86.4 88.0 90.2 91.5 92.6
    cifar100_openness_0.4         34.1 39.0 44.7 49.9 53.7 58.3 60.0 63.1
    cifar100_openness_0.6         35.0 42.5 47.5 54.0 57.9 62.1 65.0 68.3
    tiny_imagenet_openness_0.4    26.3 30.5 35.0 40.0 42.6 45.9 47.9 49.5
    tiny_imagenet_openness_0.6    29.6 34.2 38.7 42.9 47.5 50.8 53.4 55.7

The strategies that the paper compares with run in the same loop with `--config.method=random`,
`lc`, `margin`, `entropy`, `coreset`, `badge`, `typiclust`, `probcover`, `dropquery`, `lfosa` or
`eaoa`; their numbers are in
`configs/active_learning_baselines.py`. A person instead of hidden labels: `--config.oracle=csv`.

Measured on digits and reduced Fashion-MNIST in docs/results.md: low confidence of f_n does not mark
images of known classes there, as the paper has it, but of unknown ones; f_aux keeps queries pure.

Numbers are the paper's where paper and released code agree, else the code's; the options' comments
name the other.
"""

from jaxrobust.recipes.bual import ABLATIONS, get_config

__all__ = ["ABLATIONS", "get_config"]
