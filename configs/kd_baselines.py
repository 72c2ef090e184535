"""What DHKD is compared with: plain training and published distillation losses.

    python -m jaxrobust.main --config=configs/kd_baselines.py:wrn_40_2_wrn_16_2 \\
        --config.method=dkd --workdir=runs/dkd

Variants are those of `configs/dhkd.py`, and so is everything that is not a loss: networks, epochs,
optimiser, data. Methods, all on a single head, with the weights of the CIFAR-100 benchmark:

    cross_entropy  the labels alone; needs no teacher, and with `teacher.path` one that only watches
    kd             0.1 CE + 0.9 KL at T 4 (ImageNet: 0.5 and 0.5 at T 1)
    dkd            CE + target part + b non-target part at T 4, warmed up over 20 epochs; b by pair
    rld            CE + teacher's confidence + 8 of the classes below the label, warmed up likewise
    dist           CE + 2 correlations over classes and over the batch, at T 4 (ImageNet: T 1)
    rkd            CE + 25 distances + 50 angles of the pooled features
    pkt            CE + 30000 divergence of the pooled features' similarities
    at             CE + 1000 error of the attention maps at the end of every stage; of Wide ResNets
                   those of the blocks' outputs, before the next BatchNorm
    fitnet         CE + 100 error of the second stage's map, through a regressor
    sp             CE + 3000 error of the last maps' similarities within the batch
    vid            CE + negative log-likelihood of every stage's map under a predicted Gaussian
    crd            CE + 0.8 contrast of both embeddings with memories of 16,384 other images
    reviewkd       CE + 5 error of fused features, warmed up over 20 epochs; resnet56_resnet20 0.6,
                   resnet110_resnet32 1, resnet32x4_shuffle_v2 8 (ImageNet: 8 over 1 epoch)
    logit_mse      CE + mean squared error of the logits; the weight 1 is ours

and `dhkd_reviewkd`, DHKD with ReviewKD's loss added to that of its auxiliary head. Standardised
logits (CVPR 2024) are a switch: `--config.kd.standardize=True --config.kd.weight=9
--config.kd.temperature=2`; with DKD alpha and beta are times 9; with DHKD `distill.standardize`.
A published figure may be put beside ours only at its own setting: RLD's values per pair, for
instance, are not known, and on ImageNet DKD's benchmark has batches of 512 and a rate of 0.2.
CRD's negatives are drawn with replacement, as the paper's equations have it; its code draws each
at most once per step.

Test accuracy (%) on CIFAR-100 as others measured it (CRD's benchmark and the methods' authors):

                            teacher   CE    KD    AT   RKD   PKT  ReviewKD  DKD  DIST
    resnet56_resnet20         72.34 69.06 70.66 70.55 69.61 70.34  71.89  71.97 71.78
    resnet110_resnet32        74.31 71.14 73.08 72.31 71.82 72.61    -    74.11   -
    resnet32x4_resnet8x4      79.42 72.50 73.33 73.44 71.90 73.64  75.63  76.32 75.79
    wrn_40_2_wrn_16_2         75.61 73.26 74.92 74.08 73.35 74.54    -    76.23   -
    wrn_40_2_wrn_40_1         75.61 71.98 73.54 72.77 72.22 73.45  75.09  74.81 74.42
    vgg13_vgg8                74.64 70.36 72.98 71.43 71.48 72.88    -    74.68   -

                            KD standardised  FitNet   SP    VID   CRD
    resnet56_resnet20            71.43        69.21 69.67 70.38 71.16
    resnet110_resnet32           74.17        71.06 72.69 72.61 73.48
    resnet32x4_resnet8x4         76.62        73.50 72.94 73.09 75.51
    wrn_40_2_wrn_16_2            76.11        73.58 73.83 74.11 75.48
    wrn_40_2_wrn_40_1            74.37        72.24 72.43 73.30 74.14
    vgg13_vgg8 (KD at T 3)       74.36        71.02 72.68 71.23 73.94
"""

from jaxrobust.recipes.kd_baselines import get_config

__all__ = ["get_config"]
