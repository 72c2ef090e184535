"""L2D: multi-label knowledge distillation (ICCV 2023).

    python -m jaxrobust.main --config=configs/l2d.py:coco_resnet101_resnet34 --workdir=runs/l2d
    python -m jaxrobust.main --config=configs/l2d.py:digits --workdir=runs/digits

Variants: DATASET_TEACHER_STUDENT for the columns of the tables below (default
coco_resnet101_resnet34), and digits, image_folder. The teacher is trained first and kept in
`teacher/`; `--config.teacher.path=` takes that of another run in its place. The paper starts from
ImageNet backbones: `--config.teacher.backbone=` and `--config.student.backbone=` name folders that
`jaxrobust.models.convert` made of them. Without these only the order of methods compares.

Data (`--config.dataset.path=`): MS-COCO 2014, Pascal VOC 2007 and NUS-WIDE as the authors lay them
out, also from TensorFlow Datasets; `image_folder` takes any folder with a `labels.csv`. See
`jaxrobust.data.sources`. `digits` are canvases with one to five of scikit-learn's digits.

Methods, `--config.method=`:

    l2d      cross-entropy + 10 MLD + 100 CD + 1000 ID
    mld, mld_cd, mld_id  the ablation; `--config.l2d.lambda_cd=0` and the like do the same
    bce      the labels alone
    mse, ps, rkd, pkt, reviewkd  the baselines; the weights of the first two are not published

Where paper and code differ the default is the code: cross-entropy is summed over the batch
(`labels.reduction=batchmean`: the paper), distances are relative to their mean (`l2d.normalize=
False`), images are not mirrored (`augment.flip`), the teacher stops at epoch 30 of a cycle of 80
(the paper: 80). Ours differs from the code in bfloat16 in place of float16 on accelerators (float32
with `--config.dtype=float32`), in MLD's form, which stays finite, and in independent random draws
of its workers. `labels.loss=asymmetric` is an extra.

mAP / OF1 / CF1 (%) by the paper, F1 with as many labels predicted as each image truly has, which
flatters, and for the teacher mAP alone; single runs:

    MS-COCO                     teacher student alone      MLD                L2D
    coco_repvgg_a2_repvgg_a0    72.71  70.02/72.49/66.77  70.74/72.81/67.46  72.81/74.59/69.49
    coco_resnet101_resnet34     73.62  70.31/72.49/66.82  70.68/72.69/67.19  72.87/74.45/69.43
    coco_wrn101_wrn50           74.70  74.45/75.43/70.61  74.92/75.75/71.21  76.61/77.08/72.79
    coco_swin_s_swin_t          81.70  79.59/79.18/75.42  80.11/79.68/76.44  81.59/81.03/77.86
    coco_resnet101_repvgg_a0    73.62  70.02/72.49/66.77  70.48/72.77/67.10  72.14/74.08/68.78
    coco_swin_t_resnet34        79.43  70.31/72.49/66.82  71.14/72.99/67.63  73.42/74.97/70.20
    coco_resnet101_mobilenet_v2 73.62  71.85/73.59/68.26  72.17/73.84/68.52  73.24/74.85/69.72
    coco_swin_t_mobilenet_v2    79.43  71.85/73.59/68.26  72.35/74.10/68.91  74.21/75.72/70.87
    coco_resnet34_resnet101     70.19  73.98/75.01/70.12  74.64/75.78/71.10  75.51/76.25/71.75
    Pascal VOC 2007
    voc_repvgg_a2_repvgg_a0     86.20  83.79/83.36/79.83  83.65/83.66/80.02  84.56/84.37/80.82
    voc_resnet50_resnet18       86.73  84.01/83.60/79.42  84.48/84.07/80.29  85.71/85.70/82.11
    voc_wrn101_wrn50            88.00  88.52/87.21/84.08  88.29/87.16/84.25  89.52/88.25/85.69
    voc_swin_s_swin_t           92.75  91.31/89.98/88.00  91.43/90.72/88.81  91.92/91.34/89.58
    voc_resnet50_repvgg_a0      86.73  83.79/83.36/79.83  85.07/84.91/81.55  86.26/85.85/82.55
    voc_swin_t_resnet18         91.43  84.01/83.60/79.42  84.61/84.26/80.78  85.87/85.67/82.17
    voc_resnet50_mobilenet_v2   86.73  86.12/85.01/81.76  86.38/85.67/82.43  87.32/86.48/83.26
    voc_swin_t_mobilenet_v2     91.43  86.12/85.01/81.76  86.11/85.98/82.55  87.37/86.88/83.68
    NUS-WIDE
    nus_resnet101_resnet34      55.32  53.41/75.10/60.08  54.44/75.36/60.73  55.31/76.17/62.79
    nus_swin_t_mobilenet_v2     59.73  54.49/75.72/61.74  55.36/76.00/62.52  56.91/76.92/63.89

Ablation on coco_resnet101_resnet34: mld_cd 71.91/73.74/68.76, mld_id 71.79/73.62/68.43; baselines:
rkd 70.13/72.44/66.78, pkt 70.43/72.64/66.68, reviewkd 70.39/72.62/66.76, mse 70.54/72.75/66.85,
ps 70.86/72.66/67.12. A larger lambda_mld was better still: mAP 74.2 with 100.

Ours on `digits`, three seeds, under a resnet8 of 95.0 that was trained for 90 epochs: labels alone
88.3/82.3/82.2, MLD 91.8/84.7/84.8, L2D 91.7/85.7/85.9, with deviations of 1.3 to 4. Under a worse
teacher (76.6) all distilled students stay between 72.6 and 78.3; the one that this recipe trains by
itself is as good as the student: see `docs/results.md`.
"""

from jaxrobust.recipes.l2d import get_config

__all__ = ["get_config"]
