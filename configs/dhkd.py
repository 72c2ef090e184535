"""DHKD: dual-head knowledge distillation (KDD 2025).

    python -m jaxrobust.main --config=configs/dhkd.py:resnet32x4_resnet8x4 --workdir=runs/dhkd
    python -m jaxrobust.main --config=configs/dhkd.py:digits --workdir=runs/digits

Variants: TEACHER_STUDENT for the pairs of the tables below (default resnet32x4_resnet8x4), also
resnet110_resnet20, and cifar10, fashion_mnist, digits, image_folder. The teacher is trained first
and kept in `teacher/`; `--config.teacher.path=` takes that of another run in its place, or one that
`jaxrobust.models.convert` made of PyTorch's. Baselines: `configs/kd_baselines.py`, or here with
`--config.method=`.

What comes out beside the accuracy: `student/`, the network without its auxiliary head.

ImageNet is streamed from `--config.dataset.path=`: a folder with `train/<wnid>/*.JPEG` and
`val/<wnid>/*.JPEG`, or with all validation images in `val/` and Kaggle's LOC_val_solution.csv, or
the folder into which Kaggle's archive was unpacked. `num_workers` processes decode. Torchvision's
first weights as teacher, as in the paper:

    jaxrobust convert --arch=resnet34_imagenet --from=resnet34.pth \\
        --to=runs/resnet34
    python -m jaxrobust.main --config=configs/dhkd.py:resnet34_resnet18_imagenet \\
        --config.dataset.path=DIR --config.teacher.path=runs/resnet34 --workdir=runs/imagenet

`teacher.logits=table` spares the teacher's forward pass in every step where the images are in
memory and the method reads nothing but logits: pad-crop-flip has (2 * padding + 1)^2 * 2 views of
an image, 162 at padding 4, and the teacher sees each of them once, before the first step. So it
pays from about 162 epochs on (fewer with a smaller padding: 9 views of a digit), and costs memory
on every device: N * views * C numbers, 3.2 GB for CIFAR-100, half of that with
`teacher.table_dtype=float16`. The table is made anew after a restart.

The authors' code gives one complete command on CIFAR-100, resnet32x4 to ShuffleV2 with an MLP head,
gradient alignment, gamma 1, alpha 1 and T 2, and one on ImageNet, ResNet34 to ResNet18 with a
linear head and alpha 0.1 up to epoch 49. The defaults are these; the paper's alpha, and whether it
aligned gradients, is not known for the other pairs. `alpha` 0.1, 0.2, 0.5, 1 and 2 are worth a
sweep. Where ours differs: the last epoch is the headline (the script prints the best one), also of
the teacher (theirs: the best test epoch); an ImageNet step is one optimiser step (theirs: two by
mistake); its ResNets have the 7x7 stem (theirs: CIFAR's); a loss that is not a number stops the
run.

Ablations: `--config.distill.head=primary` (one head), `distill.loss=binary_kl` or soft_target_kl or
logit_mse, `distill.auxiliary=linear` or mlp, `distill.gradients=sum` or pcgrad, `distill.scope=
backbone`, `distill.temperature`, `distill.until_epoch`. `--config.method=binary_kl` is that loss
alone on one head, `cross_entropy_binary_kl` both losses on it.

Test accuracy (%). DHKD's columns are the authors' poster's; CE and KD are those of CRD's benchmark
and, on ImageNet, those that later papers share (the poster has 68.58 for KD to MobileNetV1):

    CIFAR-100                     CE    KD   DHKD  DHKD + ReviewKD
    resnet56_resnet20           69.06 70.66 71.19 73.14
    resnet110_resnet32          71.14 73.08 73.92 75.21
    resnet32x4_resnet8x4        72.50 73.33 76.54 78.29
    wrn_40_2_wrn_16_2           73.26 74.92 76.36 77.97
    wrn_40_2_wrn_40_1           71.98 73.54 75.25 76.56
    vgg13_vgg8                  70.36 72.98 74.84 76.27
    resnet32x4_shuffle_v1       70.50 74.07 76.78 78.35
    resnet32x4_shuffle_v2       71.82 74.45 77.99 78.83
    wrn_40_2_shuffle_v1         70.50 74.83 77.25 78.22
    vgg13_mobilenet_v2_half     64.60 67.37 70.09 71.01
    resnet50_mobilenet_v2_half  64.60 67.35 71.08 71.51
    resnet50_vgg8               70.36 73.81   -     -
    ImageNet
    resnet34_resnet18_imagenet  69.76 70.66 72.15   -
    resnet50_mobilenet_v1_imagenet 68.87 70.50 72.99 -

Measured with `:digits` (seeds 0, 1, 2, last epoch, in %; half a minute a run on two CPU cores):
cross_entropy 99.6 ± 0.2, binary_kl 99.5 ± 0.2, cross_entropy_binary_kl 99.7 ± 0.0, kd 99.7 ± 0.0,
dhkd 99.5 ± 0.2. Too easy to rank them, and no collapse; see docs/results.md. CIFAR-100 is owed.
"""

from jaxrobust.recipes.dhkd import get_config

__all__ = ["get_config"]
