"""Pure scores, mixtures and selections: logits in; scores, masks or positions out."""

from jaxrobust.selection.agreement import consensus_evidence as consensus_evidence
from jaxrobust.selection.agreement import fit_agreement as fit_agreement
from jaxrobust.selection.agreement import temper as temper
from jaxrobust.selection.annotators import annotator_accuracies as annotator_accuracies
from jaxrobust.selection.annotators import annotator_confusions as annotator_confusions
from jaxrobust.selection.annotators import consensus_posterior as consensus_posterior
from jaxrobust.selection.annotators import fit_annotators as fit_annotators
from jaxrobust.selection.annotators import vote_log_likelihood as vote_log_likelihood
from jaxrobust.selection.bidirectional_uncertainty import bidirectional_score as bidirectional_score
from jaxrobust.selection.bidirectional_uncertainty import (
    classifier_confidence as classifier_confidence,
)
from jaxrobust.selection.bidirectional_uncertainty import predicted_unknown as predicted_unknown
from jaxrobust.selection.bidirectional_uncertainty import select_lowest as select_lowest
from jaxrobust.selection.clusters import cover_radius as cover_radius
from jaxrobust.selection.clusters import cover_select as cover_select
from jaxrobust.selection.clusters import drop_query_select as drop_query_select
from jaxrobust.selection.clusters import leading_components as leading_components
from jaxrobust.selection.clusters import typical_select as typical_select
from jaxrobust.selection.coarse_to_fine import coarse_score as coarse_score
from jaxrobust.selection.coarse_to_fine import select_coarse_to_fine as select_coarse_to_fine
from jaxrobust.selection.confident_joint import confident_joint as confident_joint
from jaxrobust.selection.confident_joint import estimate_num_wrong as estimate_num_wrong
from jaxrobust.selection.diversity import badge_select as badge_select
from jaxrobust.selection.diversity import k_center_greedy as k_center_greedy
from jaxrobust.selection.known_unknown import candidate_count as candidate_count
from jaxrobust.selection.known_unknown import cluster_objective as cluster_objective
from jaxrobust.selection.known_unknown import cluster_unknowns as cluster_unknowns
from jaxrobust.selection.known_unknown import (
    divergence_informativeness as divergence_informativeness,
)
from jaxrobust.selection.known_unknown import known_unknown_margin as known_unknown_margin
from jaxrobust.selection.known_unknown import select_by_class_quota as select_by_class_quota
from jaxrobust.selection.margin import logit_margin as logit_margin
from jaxrobust.selection.margin import min_max_normalize as min_max_normalize
from jaxrobust.selection.margin import select_clean as select_clean
from jaxrobust.selection.mixture import GaussianMixture1D as GaussianMixture1D
from jaxrobust.selection.mixture import clean_probability as clean_probability
from jaxrobust.selection.mixture import (
    clean_probability_given_count as clean_probability_given_count,
)
from jaxrobust.selection.mixture import excess_kurtosis as excess_kurtosis
from jaxrobust.selection.mixture import fit_gaussian_mixture_1d as fit_gaussian_mixture_1d
from jaxrobust.selection.mixture import gaussian_mixture_log_odds as gaussian_mixture_log_odds
from jaxrobust.selection.mixture import gaussian_mixture_posterior as gaussian_mixture_posterior
from jaxrobust.selection.neighbors import nearest_neighbors as nearest_neighbors
from jaxrobust.selection.neighbors import neighbor_votes as neighbor_votes
from jaxrobust.selection.open_set_baselines import aleatoric_uncertainty as aleatoric_uncertainty
from jaxrobust.selection.open_set_baselines import epistemic_energy as epistemic_energy
from jaxrobust.selection.open_set_baselines import lfosa_score as lfosa_score
from jaxrobust.selection.open_set_baselines import (
    reverse_neighbor_energy as reverse_neighbor_energy,
)
from jaxrobust.selection.remaining import answers_needed as answers_needed
from jaxrobust.selection.remaining import next_to_review as next_to_review
from jaxrobust.selection.remaining import random_share as random_share
from jaxrobust.selection.remaining import wrong_labels_left as wrong_labels_left
from jaxrobust.selection.reweighting import detect_noisy_labels as detect_noisy_labels
from jaxrobust.selection.reweighting import estimate_noise_rate as estimate_noise_rate
from jaxrobust.selection.reweighting import weights_from_nl_probs as weights_from_nl_probs
from jaxrobust.selection.ridge import leave_one_out_scores as leave_one_out_scores
from jaxrobust.selection.uncertainty import differential_entropy as differential_entropy
from jaxrobust.selection.uncertainty import dirichlet_uncertainties as dirichlet_uncertainties
from jaxrobust.selection.uncertainty import merge_heads as merge_heads
from jaxrobust.selection.uncertainty import vacuity as vacuity
from jaxrobust.selection.vector_scaling import vector_scaling as vector_scaling
