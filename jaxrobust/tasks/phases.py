"""The phases of an annotation strategy: their compiled programs, and what these take as inputs."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.data.dataset import ReadableExamples
from jaxrobust.data.views import Views, make_views, statistics_of
from jaxrobust.engine import rng
from jaxrobust.engine.plan import pad_rows, place_plan
from jaxrobust.engine.run import Run
from jaxrobust.engine.training import TrainState
from jaxrobust.methods.strategy import (
    NO_EXAMPLE,
    NOT_ANNOTATED,
    AnnotationProblem,
    Phase,
    Strategy,
    in_random_order,
)
from jaxrobust.recipes.methods import STRATEGIES
from jaxrobust.recipes.protocols import ActiveLearning
from jaxrobust.tasks.backbones import StoredBackbone
from jaxrobust.tasks.common import (
    ProgramBuilder,
    batch_norm_parts,
    compute_dtype,
    loops_on_device,
    program_settings,
)
from jaxrobust.tasks.images import images_of, rows_on_devices
from jaxrobust.tasks.known_images import View


def phase_step(phase: Phase, views: Views) -> Callable:
    """A training step of `phase` on raw images.

    `(state, ids, key, images, annotations, statistics, scalars) -> (state, metrics)`: `ids` int32
    `[B]`, -1 at padding; `images` of the whole training set, uint8 `[N, H, W, 3]`; `annotations`
    int32 `[N]`; `statistics` as in `statistics_of`; `scalars` as in `Phase.scalars`.
    """

    def step(state, ids, key, images, annotations, statistics, scalars):
        augment_key, pool_key, pool_augment_key, step_key = jax.random.split(key, 4)
        valid = ids >= 0
        rows = jnp.maximum(ids, 0)
        labels = jnp.where(valid, annotations[rows], NOT_ANNOTATED)
        pool_images = None
        if phase.pool_batch:
            # The k-th image of the pool is the first id at which k + 1 have been counted.
            counts = jnp.cumsum(annotations == NOT_ANNOTATED)
            draws = jax.random.randint(
                pool_key, (phase.pool_batch,), 0, jnp.maximum(counts[-1], 1), counts.dtype
            )
            drawn = images[jnp.searchsorted(counts, draws + 1)]
            pool_images = views("weak", pool_augment_key, drawn, statistics)
        seen = views("weak", augment_key, images[rows], statistics)
        return phase.step(state, seen, labels, valid, pool_images, step_key, scalars)

    return step


def phase_outputs(
    phase: Phase, view: str, views: Views, then: Callable = lambda outputs: outputs
) -> Callable:
    """`(ids, key, variables, images, statistics) -> then(phase.forward(...))` on raw images."""

    def forward(ids, key, variables, images, statistics):
        return then(phase.forward(variables, views(view, key, images[ids], statistics)))

    return forward


@dataclasses.dataclass(frozen=True)
class PhasePrograms:
    """The compiled programs of a phase."""

    start: Callable  # `Phase.start`
    epoch: Callable  # as in `epoch_program`
    # as in `gather_program`, by what is computed; see `Phases.evaluate`
    evaluate: dict[str, Callable]


def _programs(
    phase: Phase, build: ProgramBuilder, views: Views, view: str, num_train: int, num_test: int
) -> PhasePrograms:
    """The programs of a phase; `view` is that in which the pool is scored."""
    name, evaluate = phase.name, {}

    def add(kind: str, view: str, size: int, then: Callable = lambda outputs: outputs) -> None:
        evaluate[kind] = build.gather(
            f"{name}/{kind}", phase_outputs(phase, view, views, then), size
        )

    add("predict", view, num_train)
    add("all", "test", num_train)
    if phase.observation is not None:
        add("observe", view, num_train, phase.observation.measure)
    if phase.class_probs is not None and num_test:
        add("test", "test", num_test, phase.class_probs)
    return PhasePrograms(
        start=build.jit(
            f"{name}/start", phase.start, is_start=True, out_shardings=build.placement.replicated
        ),
        epoch=build.epoch(f"{name}/epoch", phase_step(phase, views)),
        evaluate=evaluate,
    )


class Phases:
    """The phases, `by_name`, of a strategy on the examples and classes of a round, its `view`.

    `truth` as in `AnnotationProblem`; fresh networks start from `backbone`, if any.
    """

    def __init__(
        self,
        recipe: ActiveLearning,
        run: Run,
        view: View,
        test: ReadableExamples,
        truth: np.ndarray | None,
        backbone: StoredBackbone | None,
        pads: bool,
    ):
        self._recipe, self._placement, self._backbone = recipe, run.placement, backbone
        method = STRATEGIES.entry(recipe.method)
        self.num_rows = rows_on_devices(len(view.examples), method, pads=pads)
        self._sizes = {"train": self.num_rows, "test": len(test)}
        images = images_of(view.examples, recipe, run.placement, self.num_rows)
        self.problem = AnnotationProblem(
            num_classes=view.split.num_known,
            input_shape=images.shape,
            dtype=compute_dtype(recipe.dtype),
            budget=recipe.al.query_size,
            truth=truth,
            norm_parts=batch_norm_parts(recipe, run.placement),
            inputs=view.examples.inputs,
        )
        strategy: Strategy = STRATEGIES[recipe.method](recipe, self.problem)
        self.strategy = dataclasses.replace(strategy, query=in_random_order(strategy.query))
        self.by_name = {phase.name: phase for phase in self.strategy.phases}
        for phase in self.strategy.phases:
            if backbone and phase.is_fresh:
                shapes = jax.eval_shape(phase.start, jax.random.key(0), {})
                backbone.check(shapes, recipe.model.name)
        self.images = images.visit((), "")
        self._test_images = images_of(test, recipe, run.placement).visit((), "")
        self.statistics = run.placement.put(statistics_of(view.mean, view.std))
        self._views = make_views(recipe.augment, self.problem.input_shape, self.problem.dtype)
        build = ProgramBuilder(
            run.programs,
            run.placement,
            (program_settings(recipe), self.problem),
            loops_on_device(self.problem.input_shape),
        )
        self.jit = build.jit
        scored = "weak" if recipe.al.score_transform == "train" else "test"
        self.programs = {
            phase.name: _programs(phase, build, self._views, scored, *self._sizes.values())
            for phase in self.strategy.phases
        }
        self._row_observed: dict[str, Any] = {}

    def start(self, index: int, round_: int, networks: Mapping[str, TrainState]) -> TrainState:
        """The network of a phase at the start of a round."""
        phase = self.strategy.phases[index]
        key = rng.stream(self._recipe.seed, f"{phase.name}/start", round_)
        before = {p.name: networks[p.name] for p in self.strategy.phases[:index]}
        network = self.programs[phase.name].start(key, before)
        if self._backbone and phase.is_fresh:
            network = self._backbone.put_into(network, self._placement)
        return network

    def evaluate(self, kind: str, name: str, network: TrainState, ids: np.ndarray, *at: int) -> Any:
        """What the network of a phase gives for some examples, zeros in all other rows.

        `kind`: `predict`, its outputs in the view in which the pool is scored; `observe`, what the
        phase observes of the pool, in that view; `all`, its outputs in the test view; `test`, class
        probabilities of test images. `at`: round and epoch, of which the augmentation is drawn.
        """
        is_test = kind == "test"
        plan = place_plan(
            ids,
            self._recipe.eval_batch_size,
            self._placement,
            capacity=self._sizes["test" if is_test else "train"],
        )
        return self.programs[name].evaluate[kind](
            plan,
            rng.stream(self._recipe.seed, f"{name}/{kind}", *at),
            network.variables,
            self._test_images if is_test else self.images,
            self.statistics,
        )

    def nothing_observed(self, name: str, network: TrainState) -> dict:
        """Zero evaluations of the pool by a phase that observes it."""
        observation = self.by_name[name].observation
        assert observation is not None
        if name not in self._row_observed:
            self._row_observed[name] = jax.eval_shape(
                phase_outputs(self.by_name[name], "test", self._views, observation.measure),
                np.zeros(1, np.int32),
                jax.random.key(0),
                network.variables,
                self.images,
                self.statistics,
            )
        row = self._row_observed[name]
        total = np.zeros((self._sizes["train"], *row.shape[1:]), row.dtype)
        return self._placement.put({"sum": total, "count": np.int32(0)})

    def padded(self, annotations: np.ndarray) -> np.ndarray:
        """Annotations with a row for each of the rows of the programs."""
        return pad_rows(annotations, self.num_rows, NO_EXAMPLE)

    def put(self, labels: np.ndarray) -> jax.Array:
        """Labels of all examples on the devices."""
        return self._placement.put(self.padded(labels))

    def epochs_before(self, at: tuple[int, ...]) -> int:
        """Epochs from the start of the run to (round, phase, epoch); a query counts as one."""
        round_, phase_index, epoch = at
        epochs = [p.num_epochs for p in self.strategy.phases]
        return round_ * (sum(epochs) + 1) + sum(epochs[:phase_index]) + epoch

    @property
    def trained_at(self) -> tuple[int, int]:
        """Phase and epoch at the end of the training of a round."""
        last = len(self.strategy.phases) - 1
        return last, self.strategy.phases[last].num_epochs
