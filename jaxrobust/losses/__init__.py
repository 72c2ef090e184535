"""Pure per-example losses. Importing this package loads JAX and nothing heavier."""

from jaxrobust.losses.bidirectional import class_balance_loss as class_balance_loss
from jaxrobust.losses.bidirectional import consistency_kl as consistency_kl
from jaxrobust.losses.bidirectional import feature_hint_loss as feature_hint_loss
from jaxrobust.losses.bidirectional import head_agreement_loss as head_agreement_loss
from jaxrobust.losses.bidirectional import positive_learning_loss as positive_learning_loss
from jaxrobust.losses.bidirectional import self_distillation_loss as self_distillation_loss
from jaxrobust.losses.bidirectional import sop_noise_terms as sop_noise_terms
from jaxrobust.losses.bidirectional import sop_sgd_update as sop_sgd_update
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
from jaxrobust.losses.negative import complementary_label_mask as complementary_label_mask
from jaxrobust.losses.negative import negative_learning_loss as negative_learning_loss
from jaxrobust.losses.negative import random_label_targets as random_label_targets
from jaxrobust.losses.negative import sample_complementary_labels as sample_complementary_labels
