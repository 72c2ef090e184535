"""Bidirectional learning with dynamic reweighting (BLDR; Zong et al., arXiv 2209.01334).

Two heads learn from one feature: a positive head ("this is class y") through the corrected
cross-entropy of sparse over-parameterisation (SOP; Liu et al., ICML 2022), and a negative head
("this is not class k") through `jaxrobust.losses.negative_learning_loss`. Early exits use the loss
of the positive head and are distilled from both heads. `bldr_loss` is the whole objective. Only the
paper's abstract was available: the formulas and defaults are those of the authors' code. No clamp
passes a gradient where it binds.
"""

import jax
import jax.numpy as jnp

from jaxrobust.arrays import at_least_float32, check_logits, masked_mean, shares_of_classes
from jaxrobust.errors import check_option
from jaxrobust.losses.negative import negative_learning_loss

_PROB_FLOOR = 1e-4
_NOISE_CEILINGS = {"bldr": 1.0 - 1e-4, "sop": 1.0}


def _clamp_below(x: jax.Array, low: float) -> jax.Array:
    # Not jnp.maximum, which would pass half of the gradient at the bound.
    return jnp.where(x >= low, x, jnp.full_like(x, low))


def consistency_kl(logits_weak: jax.Array, logits_strong: jax.Array) -> jax.Array:
    """KL divergence of the strong view's prediction from that of the weak view.

    `sum_k p_weak[k] * (log p_weak[k] - log p_strong[k])`; only the strong logits get gradient.

    Args:
      logits_weak: floats `[B, C]` of the weakly augmented images, the fixed target.
      logits_strong: floats `[B, C]` of the strongly augmented images.

    Returns:
      Floats `[B]` in nats, at least float32.

    References:
      Zong et al., arXiv 2209.01334 (authors' code; from SOP+).
    """
    log_weak = jax.lax.stop_gradient(jax.nn.log_softmax(at_least_float32(logits_weak)))
    log_strong = jax.nn.log_softmax(at_least_float32(logits_strong))
    weak = jnp.exp(log_weak)
    return jnp.sum(jnp.where(weak > 0, weak * (log_weak - log_strong), 0), axis=-1)


def class_balance_loss(probs: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    """Cross-entropy of the batch's mean prediction against the uniform distribution.

    `-(1/C) sum_k log(max(mean_i probs[i, k], 1e-4))`, a quantity of the batch; its minimum, at a
    uniform mean, is `log C`.

    Args:
      probs: floats `[B, C]`, predicted probabilities.
      where: bool `[B]`, the rows that count; `None` for all.

    Returns:
      Float scalar in nats, at least float32.

    References:
      Zong et al., arXiv 2209.01334 (authors' code; from SOP+).
    """
    means = jax.vmap(masked_mean, in_axes=(-1, None))(at_least_float32(probs), where)
    return -jnp.mean(jnp.log(_clamp_below(means, _PROB_FLOOR)))


def sop_noise_terms(
    u_rows: jax.Array, v_rows: jax.Array, onehot: jax.Array, *, noise_terms: str = "bldr"
) -> tuple[jax.Array, jax.Array]:
    """Label noise that sparse over-parameterisation attributes to each example.

    `U = min(u^2, 1 - 1e-4) * onehot` on the given label and `V = min(v^2, 1 - 1e-4) *
    (1 - onehot)` off it. An entry beyond the bound gets no gradient, so it stays there.

    Args:
      u_rows: floats `[B, C]` or `[B, 1]`, the batch's rows of the table u. Only the label's column
        matters, so the two shapes are equivalent.
      v_rows: floats `[B, C]`, the batch's rows of the table v.
      onehot: {0, 1} floats `[B, C]`, the given labels.
      noise_terms: "bldr" for the bound above; "sop" for the bound 1 of SOP's own code.

    Returns:
      `(U, V)`, both floats `[B, C]`, at least float32.

    Raises:
      ValueError: for an unknown `noise_terms`.

    References:
      Liu et al., "Robust Training under Label Noise by Over-parameterization", ICML 2022, with the
      bound of the code of Zong et al., arXiv 2209.01334.
    """
    check_option("noise_terms", noise_terms, _NOISE_CEILINGS)
    onehot, ceiling = at_least_float32(onehot), _NOISE_CEILINGS[noise_terms]

    def magnitude(rows):
        square = at_least_float32(rows) ** 2
        return jnp.where(square <= ceiling, square, jnp.full_like(square, ceiling))

    return magnitude(u_rows) * onehot, magnitude(v_rows) * (1.0 - onehot)


def positive_learning_loss(
    logits: jax.Array,
    labels: jax.Array,
    u_rows: jax.Array,
    v_rows: jax.Array,
    *,
    noise_terms: str = "bldr",
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Noise-corrected cross-entropy of the positive heads, and the residual that drives v.

    With `p = softmax(logits)`, `m = one_hot(labels)` or the soft labels themselves,
    `(U, V) = sop_noise_terms(u_rows, v_rows, m)` and `h = one_hot(argmax logits)`::

      q   = max(p + U - V, 1e-4), normalised to sum one, and again at least 1e-4
      ce  = -log q[label]
      mse = sum_k (h + U - V - m)^2

    `ce` and `q` give gradient to the logits and, in the label's column, to u. `mse` gives gradient
    to v only, off the label's column, and none to the logits, since its prediction is hard. While V
    is 0, an example whose `p + U` at the label is below the floor gets no gradient from `ce`. With
    `noise_terms="sop"`, as in SOP's own code, `mse` gives gradient to u as well, and U and V are
    bounded by 1.

    Args:
      logits: floats `[B, C]`.
      labels: integers `[B]` in `0..C-1`, the given labels; any other value gives `ce` 0. Or soft
        labels, floats `[B, C]`, for which `ce = -sum_k m_k log q_k`.
      u_rows: floats `[B, C]` or `[B, 1]`, the batch's rows of the table u.
      v_rows: floats `[B, C]`, the batch's rows of the table v.
      noise_terms: "bldr", or "sop" for SOP's own terms.

    Returns:
      `(ce [B], mse [B], q [B, C])`, at least float32. The method sums `mean(weights * ce)`,
      `50 * noise_rate^2 * mean(mse)`, `0.1 * class_balance_loss(q)` and
      `0.9 * mean(consistency_kl(...))`; SOP+ uses 1 instead of `50 * noise_rate^2`, and no weights.

    Raises:
      ValueError: if the labels or the table rows do not fit the logits, there are fewer than two
        classes, or `noise_terms` is unknown.

    References:
      Zong et al., arXiv 2209.01334 (authors' code); Liu et al., ICML 2022, for `"sop"`.
    """
    logits = check_logits(logits)
    onehot = shares_of_classes(logits, labels)
    wide, narrow = logits.shape, (*logits.shape[:-1], 1)
    if jnp.shape(u_rows) not in (wide, narrow) or jnp.shape(v_rows) != wide:
        raise ValueError(
            f"u_rows must have shape {wide} or {narrow} and v_rows {wide}, got "
            f"{jnp.shape(u_rows)} and {jnp.shape(v_rows)}; gather the batch's rows of the tables."
        )
    noise_on, noise_off = sop_noise_terms(u_rows, v_rows, onehot, noise_terms=noise_terms)
    corrected = jax.nn.softmax(logits) + noise_on - jax.lax.stop_gradient(noise_off)
    corrected = _clamp_below(corrected, _PROB_FLOOR)
    corrected = corrected / jnp.sum(corrected, axis=-1, keepdims=True)
    corrected = _clamp_below(corrected, _PROB_FLOOR)
    ce = -jnp.sum(onehot * jnp.log(corrected), axis=-1)
    hard = jax.nn.one_hot(jnp.argmax(logits, axis=-1), wide[-1], dtype=logits.dtype)
    if noise_terms == "bldr":
        noise_on = jax.lax.stop_gradient(noise_on)
    residual = hard + noise_on - noise_off - onehot
    return ce, jnp.sum(residual**2, axis=-1), corrected


def self_distillation_loss(
    student_logits: jax.Array,
    pl_logits: jax.Array,
    nl_logits: jax.Array,
    *,
    temperature: float = 3.0,
) -> jax.Array:
    """Softened cross-entropy of an early exit against the mean of the two final heads.

    `-T^2 * sum_k t_k * log softmax(student / T)_k` with `t = softmax((pl + nl) / (2 T))`. The
    teacher's entropy is not subtracted, and the teacher heads get no gradient.

    Args:
      student_logits: floats `[B, C]` of an early exit.
      pl_logits: floats `[B, C]` of the positive head.
      nl_logits: floats `[B, C]` of the negative head.
      temperature: the T above, positive.

    Returns:
      Floats `[B]` in nats, at least float32.

    References:
      Zong et al., arXiv 2209.01334 (authors' code; after Zhang et al., "Be Your Own Teacher",
      ICCV 2019). The logits are averaged, not the probabilities.
    """
    mean_logits = (at_least_float32(pl_logits) + at_least_float32(nl_logits)) / 2.0
    teacher = jax.lax.stop_gradient(jax.nn.softmax(mean_logits / temperature))
    log_student = jax.nn.log_softmax(at_least_float32(student_logits) / temperature)
    return -(temperature**2) * jnp.sum(teacher * log_student, axis=-1)


def feature_hint_loss(features: jax.Array, target: jax.Array) -> jax.Array:
    """Squared distance of an exit's feature to the final feature.

    `sum (f - t)^2` over the entries where `f > 0` or `t > 0`; the target gets no gradient. The
    method also sums, not averages, over the batch, which is why its weight is 1e-6.

    Args:
      features: floats `[B, ...]` of an early exit.
      target: floats of the same shape, the final feature.

    Returns:
      Floats `[B]`, at least float32.

    Raises:
      ValueError: if the two shapes differ.

    References:
      Zong et al., arXiv 2209.01334 (authors' code; after Zhang et al., "Be Your Own Teacher",
      ICCV 2019).
    """
    features = at_least_float32(features)
    target = jax.lax.stop_gradient(at_least_float32(target))
    if features.shape != target.shape:
        raise ValueError(
            f"features and target must have the same shape, got {features.shape} and "
            f"{target.shape}."
        )
    active = (features > 0) | (target > 0)
    squared = jnp.where(active, (features - target) ** 2, jnp.zeros_like(features))
    return jnp.sum(squared, axis=tuple(range(1, squared.ndim)))


def head_agreement_loss(pl_logits: jax.Array, nl_logits: jax.Array) -> jax.Array:
    """KL divergence of the negative head from the positive head, averaged over classes.

    `(1/C) sum_k p_pl[k] * (log p_pl[k] - log p_nl[k])`; both heads get gradient.

    Args:
      pl_logits: floats `[B, C]` of the positive head.
      nl_logits: floats `[B, C]` of the negative head.

    Returns:
      Floats `[B]`, at least float32: 1/C of the divergence in nats. The method's weight is 10 for
      100 classes and 0 otherwise.

    References:
      Zong et al., arXiv 2209.01334 (authors' code).
    """
    log_pl = jax.nn.log_softmax(at_least_float32(pl_logits))
    log_nl = jax.nn.log_softmax(at_least_float32(nl_logits))
    return jnp.mean(jnp.exp(log_pl) * (log_pl - log_nl), axis=-1)


def bldr_loss(
    logits_weak: jax.Array,
    logits_strong: jax.Array,
    logits_again: jax.Array,
    features_again: jax.Array,
    labels: jax.Array,
    complementary: jax.Array,
    u_rows: jax.Array,
    v_rows: jax.Array,
    weights: jax.Array,
    noise_rate: jax.typing.ArrayLike,
    *,
    positive: bool = True,
    negative: bool = True,
    noise_terms: str = "bldr",
    reg_weight: float = 50.0,
    reg_power: int = 2,
    balance_weight: float = 0.1,
    consistency_weight: float = 0.9,
    distillation_weight: float = 0.1,
    temperature: float = 3.0,
    hint_weight: float = 1e-6,
    head_agreement_weight: float | None = None,
    where: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The objective of one batch, for the network and for the tables u and v.

    The sum of these parts, with E early exits; `mean` is over the batch::

      positive      mean(weights * ce) + 50 noise_rate^2 mean(mse) + 0.1 balance(q)
                      + 0.9 mean(consistency_kl), of the positive head: `positive_learning_loss`
      negative      mean(weights * negative_learning_loss) + 0.1 balance(p)
                      + 0.9 mean(consistency_kl), of the negative head
      exit_1 .. E   as `positive`, with the same u, v and weights
      distillation  0.1 * sum over the exits of mean(self_distillation_loss)
      hint          1e-6 * sum over the exits and the batch of feature_hint_loss
      agreement     head_agreement_weight * mean(head_agreement_loss)

    The first three kinds are taken from the pass over both views together, the last three from the
    second pass, over the weak views again.

    Args:
      logits_weak: floats `[B, 2 + E, C]` of the weak views in the pass over both views: the
        positive head, the negative head, the exits.
      logits_strong: logits of the strong views of the same examples, of the same shape.
      logits_again: logits of the weak views in the second pass, of the same shape.
      features_again: floats `[B, 1 + E, ...]`, the final and the exits' features of that pass.
      labels: integers `[B]`, the given labels, or soft labels, floats `[B, C]`.
      complementary: {0, 1} mask `[B, C]` of the complementary classes, `complementary_label_mask`
        of the negative head's logits in the second pass.
      u_rows: floats `[B, C]` or `[B, 1]`, the batch's rows of the table u.
      v_rows: floats `[B, C]`, the batch's rows of the table v.
      weights: floats `[B]`, weights of the examples.
      noise_rate: scalar, the estimated fraction of wrong labels.
      positive: whether the positive head learns; if not, there must be no exits.
      negative: whether the negative head learns; if not, there must be no exits.
      noise_terms: as in `positive_learning_loss`.
      reg_weight: the 50 above.
      reg_power: the exponent of the noise rate; 1 in the first upload of the authors' code.
      balance_weight: the 0.1 of `class_balance_loss`.
      consistency_weight: the 0.9 of `consistency_kl`.
      distillation_weight: the 0.1 of the exits' `self_distillation_loss`.
      temperature: temperature of `self_distillation_loss`.
      hint_weight: the 1e-6 above. It weights a sum, so its term grows with the batch.
      head_agreement_weight: None for the authors' choice, 10 for 100 classes and otherwise 0,
        which leaves the term out.
      where: bool `[B]`, the examples that count; `None` for all.

    Returns:
      `(loss, parts)`: the scalar, and its parts by the names above, weights included; a part that
      is switched off is absent. At least float32.

    Raises:
      ValueError: if the shapes do not fit, `noise_terms` is unknown, or there are exits although
        one of the two heads does not learn.

    References:
      Zong et al., arXiv 2209.01334 (authors' code). `positive` alone with unit weights, noise rate
      and `reg_weight` and `noise_terms="sop"` is the objective of SOP+ (Liu et al., ICML 2022).
    """
    logits_weak, logits_strong, logits_again = map(
        check_logits, (logits_weak, logits_strong, logits_again)
    )
    num_heads, num_classes = logits_weak.shape[1:]
    num_exits = num_heads - 2
    for name, array, expected in (
        ("logits_strong", logits_strong, logits_weak.shape),
        ("logits_again", logits_again, logits_weak.shape),
        ("features_again", features_again, (len(logits_weak), 1 + num_exits)),
    ):
        if num_exits < 0 or array.shape[: len(expected)] != expected:
            raise ValueError(
                f"{name} of shape {array.shape} does not fit logits_weak of {logits_weak.shape}: "
                "logits are [B, 2 + exits, C] and features [B, 1 + exits, ...]."
            )
    if num_exits and not (positive and negative):
        raise ValueError("Exits learn from both heads: give none if a head does not learn.")
    if head_agreement_weight is None:
        head_agreement_weight = 10.0 if num_classes == 100 else 0.0

    def mean(values):
        return masked_mean(values, where)

    def regularizers(head, probs):
        divergence = consistency_kl(logits_weak[:, head], logits_strong[:, head])
        balance = class_balance_loss(probs, where=where)
        return balance_weight * balance + consistency_weight * mean(divergence)

    def positive_part(head):
        ce, mse, q = positive_learning_loss(
            logits_weak[:, head], labels, u_rows, v_rows, noise_terms=noise_terms
        )
        fit = mean(weights * ce) + reg_weight * noise_rate**reg_power * mean(mse)
        return fit + regularizers(head, q)

    parts = {}
    if positive:
        parts["positive"] = positive_part(0)
    if negative:
        pushed = negative_learning_loss(logits_weak[:, 1], complementary)
        parts["negative"] = mean(weights * pushed) + regularizers(
            1, jax.nn.softmax(logits_weak[:, 1])
        )
    for i in range(1, num_exits + 1):
        parts[f"exit_{i}"] = positive_part(1 + i)
    pl_again, nl_again = logits_again[:, 0], logits_again[:, 1]
    if num_exits:
        distilled = [
            self_distillation_loss(
                logits_again[:, 1 + i], pl_again, nl_again, temperature=temperature
            )
            for i in range(1, num_exits + 1)
        ]
        hints = [
            feature_hint_loss(features_again[:, i], features_again[:, 0])
            for i in range(1, num_exits + 1)
        ]
        counts = jnp.ones(len(labels), bool) if where is None else where
        parts["distillation"] = distillation_weight * mean(sum(distilled))
        parts["hint"] = hint_weight * jnp.sum(sum(hints), where=counts)
    if head_agreement_weight:
        parts["agreement"] = head_agreement_weight * mean(head_agreement_loss(pl_again, nl_again))
    return jnp.asarray(sum(parts.values())), parts
