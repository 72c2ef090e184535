"""Pure per-example losses. Importing this package loads JAX and nothing heavier."""

from jaxrobust.losses.calibrated import calibrated_log_softmax as calibrated_log_softmax
from jaxrobust.losses.calibrated import calibrated_softmax as calibrated_softmax
from jaxrobust.losses.calibrated import evidential_kl as evidential_kl
from jaxrobust.losses.calibrated import evidential_loss as evidential_loss
from jaxrobust.losses.calibrated import evidential_nll as evidential_nll
from jaxrobust.losses.calibrated import negative_entropy as negative_entropy
from jaxrobust.losses.calibrated import semi_supervised_loss as semi_supervised_loss
from jaxrobust.losses.calibrated import sharpen as sharpen
from jaxrobust.losses.calibrated import strong_view_consistency as strong_view_consistency
from jaxrobust.losses.calibrated import uniform_prior_penalty as uniform_prior_penalty
