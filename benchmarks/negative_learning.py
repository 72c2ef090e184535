"""What makes images of unknown classes confident under negative learning (BUAL's Fig. 1)?

    python benchmarks/negative_learning.py

Digits 0 to 3 of scikit-learn are known. A perceptron learns the labelled images; then, under a
fresh head, the whole of it goes on with negative learning on labelled images and 600 others with
random labels, momentum 0.9 and weight decay 1e-4, 100 epochs, batches of 64. Features h are scaled
to a given ||h||^2, and the rate is 0.01 throughout or falls to zero by a cosine. Prints, for known
and unknown images that are not labelled, the mean largest probability after the last epoch, the
AUROC of it for "unknown", the share of unknown images above 0.9, and how far the largest
probability of an unknown image moves from one epoch to the next over the last 20.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from jaxrobust.losses import negative_learning_loss, random_label_targets
from jaxrobust.metrics import auroc

NUM_KNOWN, NUM_EPOCHS, BATCH_SIZE, SUBSET_SIZE, RATE = 4, 100, 64, 600, 0.01

IMAGES, TARGETS = load_digits(return_X_y=True)
IMAGES = ((IMAGES - IMAGES.mean()) / IMAGES.std()).astype(np.float32)
IS_KNOWN = TARGETS < NUM_KNOWN


def init(key, sizes=((64, 256), (256, 256), (256, NUM_KNOWN))):
    keys = jax.random.split(key, len(sizes) + 1)
    return [
        (jax.random.uniform(k, s, minval=-1, maxval=1) / np.sqrt(s[0]), jnp.zeros(s[1]))
        for k, s in zip(keys[: len(sizes)], sizes, strict=True)
    ]


def classify(params, x, scale):
    for weights, bias in params[:2]:
        x = jax.nn.relu(x @ weights + bias[None])
    h = scale * x / jnp.sqrt(jnp.sum(x**2, axis=1, keepdims=True) + 1e-6)
    return h @ params[2][0] + params[2][1][None]


def train(params, ids, rate, key, loss, scale):
    """The trained parameters, and the largest probability of every image after each epoch."""
    optimizer = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(rate, momentum=0.9))
    num_steps = len(ids) // BATCH_SIZE

    @jax.jit
    def epoch(params, state, key):
        order_key, draw_key = jax.random.split(key)
        order = jax.random.permutation(order_key, ids)[: num_steps * BATCH_SIZE]

        def step(carry, inputs):
            grads = jax.grad(loss)(carry[0], *inputs)
            updates, state = optimizer.update(grads, carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), None

        inputs = order.reshape(num_steps, BATCH_SIZE), jax.random.split(draw_key, num_steps)
        (params, state), _ = jax.lax.scan(step, (params, state), inputs)
        return params, state, jax.nn.softmax(classify(params, IMAGES, scale)).max(axis=1)

    state, history = optimizer.init(params), []
    for i in range(NUM_EPOCHS):
        params, state, confidence = epoch(params, state, jax.random.fold_in(key, i))
        history.append(np.asarray(confidence))
    return params, np.stack(history)


def run(seed: int, num_labels: int, squared_norm: float, constant: bool) -> str:
    rng, scale = np.random.default_rng(seed), float(np.sqrt(squared_norm))
    labelled = rng.choice(np.flatnonzero(IS_KNOWN), num_labels, replace=False)
    others = np.setdiff1d(np.arange(len(TARGETS)), labelled)
    subset = rng.choice(others, SUBSET_SIZE, replace=False)
    is_labelled = jnp.asarray(~np.isin(np.arange(len(TARGETS)), others))
    images, labels = jnp.asarray(IMAGES), jnp.where(IS_KNOWN, TARGETS, 0).astype(jnp.int32)

    def positive(params, ids, key):
        del key
        logits = classify(params, images[ids], scale)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[ids]).mean()

    def negative(params, ids, key):
        logits = classify(params, images[ids], scale)
        targets = random_label_targets(key, labels[ids], is_labelled[ids], NUM_KNOWN)
        return negative_learning_loss(logits, targets).mean()

    def told_apart(confidence):
        known, unknown = confidence[others][IS_KNOWN[others]], confidence[~IS_KNOWN]
        area = auroc(confidence[others], ~IS_KNOWN[others])
        return f"known {known.mean():.2f} unknown {unknown.mean():.2f} AUROC {area:.2f}"

    visited = jnp.asarray(np.resize(labelled, max(num_labels, BATCH_SIZE)))
    params = init(jax.random.key(seed))
    params, before = train(params, visited, RATE, jax.random.key(seed + 50), positive, scale)
    params = params[:2] + init(jax.random.key(seed + 9))[2:]
    visited = jnp.asarray(np.concatenate([labelled, subset]))
    num_steps = len(visited) // BATCH_SIZE * NUM_EPOCHS
    rate = RATE if constant else optax.cosine_decay_schedule(RATE, num_steps)
    _, after = train(params, visited, rate, jax.random.key(seed + 99), negative, scale)
    unknown = after[:, ~IS_KNOWN]
    swing = np.abs(np.diff(unknown[-20:], axis=0)).mean()
    return (
        f"{num_labels:4d} labels, ||h||^2 {squared_norm:6.0f}, rate "
        f"{'constant' if constant else 'cosine  '}: f_p {told_apart(before[-1])}; f_n "
        f"{told_apart(after[-1])}, above .9 {(unknown[-1] > 0.9).mean():.2f}, moves {swing:.3f}"
    )


if __name__ == "__main__":
    for setting in itertools.product((24, 144), (10, 100, 1000, 10000), (True, False)):
        print(run(0, *setting), flush=True)
