"""BLDR: noise-robust bidirectional learning with dynamic sample reweighting (arXiv 2209.01334).

    python -m jaxrobust.main --config=configs/bldr.py:cifar10n_worst --workdir=runs/bldr \
        --config.noise.path=DIR/CIFAR-10_human.pt
    python -m jaxrobust.main --config=configs/bldr.py:digits --workdir=runs/digits

Variants: those of `SETTINGS` (default cifar10n_worst). Other methods run by the same command with
`--config.method=cross_entropy` or `mixup`, whose batches are twice `batch_size`, `dividemix` or
`dpc`, with the numbers of configs/dpc.py for the same noise (for noise that is not there, those of
`sym50` of the same data set).

The text of the paper could not be read beyond its abstract: every number is the authors' code's, as
of 28 June 2022. Its first upload had others, `_first_upload` behind any variant: a rate of 0.02,
the term of v 25 times the noise rate, not squared, a noise rate of 0 at first, and another
initialisation. Which of the two made the paper's tables is not known.

Ablations, behind any variant, such as `digits_both`: `_positive` is the positive head alone (unit
weights, noise rate 1, residual weight 1), `_negative` the negative head alone, `_nlnl` the same
with one random complementary label, `_both` both heads without reweighting, `_reweighted` all but
the exits. Also `--config.bldr.ema=False`; the accuracies of the single heads are always measured.
`_sop_plus` is a rival, SOP+ (ICML 2022): `_positive` without the average of the parameters, and as
in SOP's code the residual teaches u too and the bound of u^2 and v^2 is 1. Network, rate and number
of epochs are BLDR's, not those of SOP's authors.

Where batches are not of 256 examples, the rates of u and v are scaled by `batch_size / 256`: the
losses are means over the batch, so that an example's rows move as far per visit as in the authors'
runs. A short last batch moves its rows farther, as there.

The negative head starts by giving every image to one class: what it predicts is never among the
complementary labels, so it costs nothing. It leaves that state class by class as the positive head
shapes the features, and the warm-up has to last until it has. If reweighting begins before, right
labels of the classes that it has not found get no weight, and it may never find them: on digits
with batches of 64, in 460 steps of warm-up (the authors have 3,920), two of three seeds lost one
and two classes for good.

Measured with `:digits` (40 % of the labels wrong; seeds 0 to 2; mean of the last ten epochs, %):

                    accuracy     calibration error   detection AUROC   precision   recall    F1
    bldr           99.0 ± 0.6           1                100.0            99.6      98.6    99.1
    _reweighted    98.5 ± 0.7           1                 99.9            99.2      98.3    98.8
    _both          98.4 ± 0.8          11                 99.0            99.3      95.1    97.2
    _positive      98.6 ± 0.3           3                100.0            99.9      93.8    96.8
    _sop_plus      99.0 ± 0.5           2                100.0            99.9      96.1    98.0
    cross_entropy  92.7 ± 1.3          32                 98.8            91.5      96.0    93.7

With `--config.bldr.reg_weight=50`, `_positive` has 99.3 ± 0.3, a recall of 98.6 and an F1 of 99.3.
"""

from jaxrobust.recipes.bldr import ABLATIONS, SETTINGS, get_config

__all__ = ["ABLATIONS", "SETTINGS", "get_config"]
