"""Scores of LfOSA and EAOA, open-set annotation methods that BUAL is compared with."""

import jax
import jax.numpy as jnp
from jax import lax

from jaxrobust.arrays import at_least_float32, check_logits
from jaxrobust.losses.negative import log_one_minus_softmax
from jaxrobust.selection.mixture import fit_gaussian_mixture_1d, gaussian_mixture_log_odds

_BLOCK = 128


def lfosa_score(detector_logits: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    """LfOSA's score that an image is of its predicted known class; high = query.

    The images are grouped by predicted class. A mixture of two Gaussians is fitted to the largest
    logits of each group, and the score is the log-odds of the component with the larger mean. Its
    sigmoid is the authors' posterior, many of whose values round to exactly 1 in float32.

    Args:
      detector_logits: floats `[N, K+1]` of a (K+1)-way detector; class K is "unknown".
      where: bool `[N]`, the candidates; `None` for all.

    Returns:
      Floats `[N]`, at least float32: the lowest finite number (posterior 0) for images predicted
      unknown and for those alone in their group; -inf outside `where`.

    Raises:
      ValueError: if `detector_logits` is not a matrix with at least two columns.

    References:
      Ning et al., "Active Learning for Open-set Annotation", CVPR 2022.
    """
    detector_logits = check_logits(detector_logits)
    if detector_logits.ndim != 2:
        raise ValueError(f"detector_logits must be [N, K+1]; got shape {detector_logits.shape}.")
    activations = jnp.max(detector_logits, axis=1)
    predicted = jnp.argmax(detector_logits, axis=1)
    candidate = jnp.ones(len(predicted), bool) if where is None else jnp.asarray(where, bool)

    def visit(label, scores):
        members = candidate & (predicted == label.astype(predicted.dtype))
        mixture = fit_gaussian_mixture_1d(activations, where=members)
        known = gaussian_mixture_log_odds(activations, mixture)
        return jnp.where(members & (jnp.sum(members) >= 2), known, scores)

    lowest = jnp.full_like(activations, jnp.finfo(activations.dtype).min)
    scores = jnp.where(candidate, lowest, -jnp.inf)
    return lax.fori_loop(0, detector_logits.shape[1] - 1, visit, scores)


def aleatoric_uncertainty(logits: jax.Array) -> jax.Array:
    """EAOA's aleatoric uncertainty: `logsumexp_{k != argmax} z_k - logsumexp_k z_k`; high = query.

    This is `log(1 - max p)` without cancellation.

    Args:
      logits: floats `[M, K]` of the K-way classifier, K >= 2.

    Returns:
      Floats `[M]`, at least float32, below 0.

    Raises:
      ValueError: if there are fewer than two classes.

    References:
      Zong and Huang, "Rethinking Epistemic and Aleatoric Uncertainty for Active Open-Set
      Annotation: An Energy-Based Approach", CVPR 2025.
    """
    return jnp.min(log_one_minus_softmax(logits), axis=-1)


def epistemic_energy(detector_logits: jax.Array) -> jax.Array:
    """EAOA's energy of a (K+1)-way detector, `-logsumexp_{k < K} w_k + softplus(w_K)`; low = known.

    Args:
      detector_logits: floats `[M, K+1]`; class K is "unknown".

    Returns:
      Floats `[M]`, at least float32.

    Raises:
      ValueError: if there is no known class.

    References:
      Zong and Huang, CVPR 2025.
    """
    detector_logits = check_logits(detector_logits)
    known = jax.nn.logsumexp(detector_logits[..., :-1], axis=-1)
    return jax.nn.softplus(detector_logits[..., -1]) - known


def reverse_neighbor_energy(
    features: jax.Array,
    labels: jax.Array,
    num_known: int,
    *,
    where: jax.Array,
    num_neighbors: int = 250,
) -> jax.Array:
    """EAOA's energy of a pool image, from the annotated images whose neighbour it is; low = known.

    `epistemic_energy` of the class-balanced counts `w_k = c_k / (n_k / mean n)`, where `c_k` of the
    `n_k` annotated images of class k have the image among their num_neighbors nearest pool images,
    and the mean is over the known classes. While the class "unknown" has no image, the mean
    includes it too, as in the authors' code. A class without images has `w_k = 0`.

    Annotated images are processed in blocks of 128: memory is that of features, counts and
    distances `[128, N]`.

    Args:
      features: floats `[N, D]` of pool and annotated images.
      labels: integers `[N]`; `0..num_known` mark annotated images, `num_known` is "unknown".
      num_known: K, the number of known classes.
      where: bool `[N]`, the pool.
      num_neighbors: number of nearest pool images by Euclidean distance; all of a smaller pool.

    Returns:
      Floats `[N]`, at least float32; unspecified outside the pool.

    Raises:
      ValueError: if features are not a matrix with one row per label, or `num_neighbors` is below
        1.

    References:
      Zong and Huang, CVPR 2025, the data side of epistemic uncertainty.
    """
    counts, sizes = _reverse_neighbor_counts(features, labels, num_known + 1, where, num_neighbors)
    num_classes = jnp.where(sizes[-1] > 0, num_known, num_known + 1).astype(sizes.dtype)
    mean = jnp.sum(sizes[:-1]) / num_classes
    return epistemic_energy(counts * (mean / jnp.maximum(sizes, 1))[None])


def _reverse_neighbor_counts(
    features: jax.Array, labels: jax.Array, num_classes: int, where: jax.Array, num_neighbors: int
) -> tuple[jax.Array, jax.Array]:
    """Floats `[N, C]`, how many images of each class have the image as a neighbour; class sizes."""
    features, labels = at_least_float32(features), jnp.asarray(labels)
    if features.ndim != 2 or features.shape[:1] != labels.shape:
        raise ValueError(
            f"features and labels must be [N, D] and [N], got {features.shape} and {labels.shape}."
        )
    if num_neighbors < 1:
        raise ValueError(f"num_neighbors must be at least 1, got {num_neighbors}.")
    annotated = (labels >= 0) & (labels < num_classes)
    block, num_neighbors = min(_BLOCK, len(labels)), min(num_neighbors, len(labels))
    # Whole blocks of annotated rows, then padding whose label is of no class.
    rows = jnp.nonzero(annotated, size=-(-len(labels) // block) * block, fill_value=-1)[0]
    sizes = jnp.where(where, jnp.sum(features**2, axis=1), jnp.inf)

    def visit(index, counts):
        ids = lax.dynamic_slice_in_dim(rows, index * block, block)
        # Up to a constant; accelerators would otherwise round to fewer digits than a rank needs.
        inner = jnp.dot(features[ids], features.T, precision=lax.Precision.HIGHEST)
        nearness, neighbors = lax.top_k(2.0 * inner - sizes[None], num_neighbors)
        found = (nearness > -jnp.inf) & (ids >= 0)[:, None]
        return counts.at[neighbors, labels[ids][:, None]].add(found.astype(counts.dtype))

    counts = jnp.zeros((len(labels), num_classes), features.dtype)
    counts = lax.fori_loop(0, -(-jnp.sum(annotated) // block), visit, counts)
    members = jnp.sum(jax.nn.one_hot(labels, num_classes, dtype=features.dtype), axis=0)
    return counts, members
