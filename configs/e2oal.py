"""E2OAL: clusters of unknown images and a target precision (CVPR 2026, arXiv 2603.07898).

    python -m jaxrobust.main --config=configs/e2oal.py:cifar10_known_4 --workdir=runs/e2oal
    python -m jaxrobust.main --config=configs/e2oal.py:digits --workdir=runs/digits

Variants: those of `configs/bual.py`, with 60 % of the classes unknown or as in
`cifar10_openness_0.4`; and the settings of the paper's tables, by the number of known classes:

    cifar10_known_2, _3, _4              1 % of the known images labelled at the start
    cifar100_known_20, _30, _40          8 %
    tiny_imagenet_known_20, _30, _40     8 %

each with ten queries of 1,500 images, and a ResNet-50 of a quarter of the usual width
(`model.name=resnet50_thin`), 200 epochs of SGD, its rate halved every 60. Which classes are known
is one fixed list of the authors; ours is the first ones, or drawn by the seed with
`--config.al.shuffle_classes=True`. They cluster CLIP's embeddings: give a file of them as
`--config.e2oal.embeddings=`, one row for each training image; without it the images are embedded by
the network of jaxrobust[pretrained].

Accuracy (%), averages over their settings as a third party's notes of the paper have them; the
paper itself could not be read:

                                        CIFAR-10  CIFAR-100  Tiny-ImageNet
    the method                             97.52      72.10          64.02
    _one_unknown                           97.17      70.73          62.67
    _margin_alone                          96.73      72.00          61.93
    _informativeness_alone                 96.00      68.20          57.60
    _known_alone, "Ours*"                  95.94      67.54          60.44
    EAOA                                   95.88      67.14          57.31
    BUAL                                   95.04      63.73          56.09

of which the last three rows may be of other settings than the first four. A target precision of .4
to .7 hardly matters there.

`digits`, `features` and folders of images differ: the network and the epochs of the other recipes,
at most 64 clusters, and queries that are always full (`e2oal.refill`). Measured in docs/results.md.
Numbers are the code's where paper and code differ: docs/methods/e2oal.md.
"""

from jaxrobust.recipes.e2oal import ABLATIONS, PROTOCOL, get_config

__all__ = ["ABLATIONS", "PROTOCOL", "get_config"]
