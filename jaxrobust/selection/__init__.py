"""Pure scores, mixtures and pickers: logits in; scores, masks or positions out."""

from jaxrobust.selection.coarse_to_fine import coarse_score as coarse_score
from jaxrobust.selection.coarse_to_fine import select_coarse_to_fine as select_coarse_to_fine
from jaxrobust.selection.evidential import differential_entropy as differential_entropy
from jaxrobust.selection.evidential import dirichlet_uncertainties as dirichlet_uncertainties
from jaxrobust.selection.evidential import merge_heads as merge_heads
from jaxrobust.selection.evidential import vacuity as vacuity
