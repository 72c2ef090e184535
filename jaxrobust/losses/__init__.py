"""Pure per-example losses. Importing this package loads JAX and nothing heavier."""

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
