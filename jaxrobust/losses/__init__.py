"""Pure per-example losses. Importing this package loads JAX and nothing heavier."""

from jaxrobust.arrays import masked_mean as masked_mean
from jaxrobust.losses.bidirectional_learning import bldr_loss as bldr_loss
from jaxrobust.losses.bidirectional_learning import class_balance_loss as class_balance_loss
from jaxrobust.losses.bidirectional_learning import consistency_kl as consistency_kl
from jaxrobust.losses.bidirectional_learning import feature_hint_loss as feature_hint_loss
from jaxrobust.losses.bidirectional_learning import head_agreement_loss as head_agreement_loss
from jaxrobust.losses.bidirectional_learning import positive_learning_loss as positive_learning_loss
from jaxrobust.losses.bidirectional_learning import self_distillation_loss as self_distillation_loss
from jaxrobust.losses.bidirectional_learning import sop_noise_terms as sop_noise_terms
from jaxrobust.losses.calibrated import calibrated_log_softmax as calibrated_log_softmax
from jaxrobust.losses.calibrated import calibrated_softmax as calibrated_softmax
from jaxrobust.losses.calibrated import class_prior_penalty as class_prior_penalty
from jaxrobust.losses.calibrated import evidential_kl as evidential_kl
from jaxrobust.losses.calibrated import evidential_loss as evidential_loss
from jaxrobust.losses.calibrated import evidential_nll as evidential_nll
from jaxrobust.losses.calibrated import negative_entropy as negative_entropy
from jaxrobust.losses.calibrated import semi_supervised_loss as semi_supervised_loss
from jaxrobust.losses.calibrated import sharpen as sharpen
from jaxrobust.losses.calibrated import strong_view_consistency as strong_view_consistency
from jaxrobust.losses.calibrated import uniform_prior_penalty as uniform_prior_penalty
from jaxrobust.losses.dual_head import align_gradients as align_gradients
from jaxrobust.losses.dual_head import binary_kl_loss as binary_kl_loss
from jaxrobust.losses.dual_head import binary_kl_norm_loss as binary_kl_norm_loss
from jaxrobust.losses.dual_head import etf_deviation as etf_deviation
from jaxrobust.losses.dual_head import gradient_conflict_report as gradient_conflict_report
from jaxrobust.losses.dual_head import gradient_cosine as gradient_cosine
from jaxrobust.losses.dual_head import logit_conflict as logit_conflict
from jaxrobust.losses.dual_head import soft_target_kl as soft_target_kl
from jaxrobust.losses.energy import energy_margin_loss as energy_margin_loss
from jaxrobust.losses.evidential import dcfs_loss as dcfs_loss
from jaxrobust.losses.evidential import dirichlet_alpha as dirichlet_alpha
from jaxrobust.losses.evidential import dirichlet_kl_to_uniform as dirichlet_kl_to_uniform
from jaxrobust.losses.evidential import dirichlet_log_alpha as dirichlet_log_alpha
from jaxrobust.losses.evidential import discrepancy_loss as discrepancy_loss
from jaxrobust.losses.evidential import edl_loss as edl_loss
from jaxrobust.losses.evidential import edl_nll as edl_nll
from jaxrobust.losses.evidential import head_discrepancy as head_discrepancy
from jaxrobust.losses.evidential import misleading_kl as misleading_kl
from jaxrobust.losses.evidential import unknown_kl as unknown_kl
from jaxrobust.losses.feature_distillation import attention_transfer_loss as attention_transfer_loss
from jaxrobust.losses.feature_distillation import contrastive_loss as contrastive_loss
from jaxrobust.losses.feature_distillation import fitnet_loss as fitnet_loss
from jaxrobust.losses.feature_distillation import pkt_loss as pkt_loss
from jaxrobust.losses.feature_distillation import review_kd_hcl_loss as review_kd_hcl_loss
from jaxrobust.losses.feature_distillation import rkd_loss as rkd_loss
from jaxrobust.losses.feature_distillation import (
    similarity_preserving_loss as similarity_preserving_loss,
)
from jaxrobust.losses.feature_distillation import (
    variational_information_loss as variational_information_loss,
)
from jaxrobust.losses.logit_distillation import dist_loss as dist_loss
from jaxrobust.losses.logit_distillation import dkd_loss as dkd_loss
from jaxrobust.losses.logit_distillation import logit_mse_loss as logit_mse_loss
from jaxrobust.losses.logit_distillation import rld_loss as rld_loss
from jaxrobust.losses.logit_distillation import standardize_logits as standardize_logits
from jaxrobust.losses.logit_distillation import transformed_teacher_loss as transformed_teacher_loss
from jaxrobust.losses.multilabel import asymmetric_loss as asymmetric_loss
from jaxrobust.losses.multilabel import (
    class_aware_embedding_distillation_loss as class_aware_embedding_distillation_loss,
)
from jaxrobust.losses.multilabel import (
    instance_aware_embedding_distillation_loss as instance_aware_embedding_distillation_loss,
)
from jaxrobust.losses.multilabel import (
    label_embedding_distillation_loss as label_embedding_distillation_loss,
)
from jaxrobust.losses.multilabel import multilabel_bce_loss as multilabel_bce_loss
from jaxrobust.losses.multilabel import (
    multilabel_logits_distillation_loss as multilabel_logits_distillation_loss,
)
from jaxrobust.losses.multilabel import pairwise_euclidean_distance as pairwise_euclidean_distance
from jaxrobust.losses.multilabel import (
    partial_softmax_distillation_loss as partial_softmax_distillation_loss,
)
from jaxrobust.losses.multilabel import structural_distance_loss as structural_distance_loss
from jaxrobust.losses.negative import complementary_label_mask as complementary_label_mask
from jaxrobust.losses.negative import negative_learning_loss as negative_learning_loss
from jaxrobust.losses.negative import random_label_targets as random_label_targets
from jaxrobust.losses.negative import sample_complementary_labels as sample_complementary_labels
