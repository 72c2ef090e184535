"""Pure scores, mixtures and pickers: logits in; scores, masks or positions out."""

from jaxrobust.selection.margin import logit_margin as logit_margin
from jaxrobust.selection.margin import min_max_normalize as min_max_normalize
from jaxrobust.selection.margin import select_clean as select_clean
from jaxrobust.selection.mixture import GaussianMixture1D as GaussianMixture1D
from jaxrobust.selection.mixture import clean_probability as clean_probability
from jaxrobust.selection.mixture import excess_kurtosis as excess_kurtosis
from jaxrobust.selection.mixture import fit_gaussian_mixture_1d as fit_gaussian_mixture_1d
from jaxrobust.selection.mixture import gaussian_mixture_posterior as gaussian_mixture_posterior
