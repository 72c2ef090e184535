"""A round of an annotation run: what its networks say, and what the strategy may see of it."""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import metrics
from jaxrobust.data.open_set import OpenSetSplit
from jaxrobust.engine import rng
from jaxrobust.engine.run import Saved
from jaxrobust.engine.sharding import fetch
from jaxrobust.methods.strategy import NOT_ANNOTATED, QueryContext, Relabeled
from jaxrobust.recipes.protocols import ActiveLearning
from jaxrobust.tasks.phases import Phases


class Round:
    """Round `number`, from 0; everything is computed once, by the networks of `saved`.

    `annotations` are int32 `[N]` at the start of the round.
    """

    def __init__(
        self,
        number: int,
        recipe: ActiveLearning,
        phases: Phases,
        saved: Saved,
        annotations: np.ndarray,
    ):
        self.number = number
        self._recipe, self._phases, self._saved = recipe, phases, saved
        self._annotations = annotations
        self._members: dict[str, np.ndarray] = {}
        self._predicted: dict[str, Any] = {}
        self._relabeled: dict[str, tuple[Relabeled, jax.Array]] = {}

    def members(self, index: int) -> np.ndarray:
        """Ids that phase `index` visits."""
        phase = self._phases.strategy.phases[index]
        if phase.name not in self._members:
            context = self._context(f"{phase.name}/members", num_phases=index)
            self._members[phase.name] = phase.members(context)
        return self._members[phase.name]

    def labels(self, index: int) -> tuple[jax.Array, dict[str, float]]:
        """What phase `index` learns, `[N]` on the devices, and further scalars of its step."""
        phase = self._phases.strategy.phases[index]
        if phase.relabel is None:
            return self._saved.arrays["annotations"], {}
        if phase.name not in self._relabeled:
            relabeled = phase.relabel(self._context(f"{phase.name}/relabel", num_phases=index))
            self._relabeled[phase.name] = relabeled, self._phases.put(relabeled.labels)
        relabeled, placed = self._relabeled[phase.name]
        return placed, relabeled.scalars

    @property
    def trained(self) -> tuple[str, ...]:
        """Phases that had something to train on."""
        return tuple(name for name, members in self._members.items() if members.size)

    def observe_pool(self, index: int, epoch: int) -> bool:
        """Adds an evaluation of the pool to those of this phase; whether the phase ends with it."""
        phase = self._phases.strategy.phases[index]
        name, observation = phase.name, phase.observation
        pool = np.flatnonzero(self._annotations == NOT_ANNOTATED)
        values = self._evaluate("observe", name, pool, self.number, epoch)
        add = self._phases.jit(f"{name}/add", lambda a, b: jax.tree.map(jnp.add, a, b))
        observed = self._saved.arrays["observed"]
        observed[name] = add(observed[name], {"sum": values, "count": np.int32(1)})
        if observation is None or observation.verdict is None:
            return False
        verdicts = self._saved.record["verdicts"]
        verdicts.append(observation.verdict(self._context(f"{name}/verdict", num_phases=index + 1)))
        return observation.settled(verdicts)

    def query_context(self) -> QueryContext:
        """What the strategy may see when it chooses images."""
        num_phases = len(self._phases.strategy.phases)
        return self._context(f"{self._recipe.method}/query", num_phases=num_phases)

    def _context(self, stream: str, *, num_phases: int) -> QueryContext:
        """What the strategy may see once the first `num_phases` phases are trained."""
        names = [phase.name for phase in self._phases.strategy.phases[:num_phases]]
        for index in range(num_phases):
            self.members(index)
            self.labels(index)
        queries = [r.get("query", {}) for r in self._saved.record["rounds"]]
        annotations = self._phases.padded(self._annotations).copy()
        return QueryContext(
            predict=self._predictions,
            observed=self._observations,
            trained=frozenset(names) & frozenset(self.trained),
            in_pool=annotations == NOT_ANNOTATED,
            annotations=annotations,
            budget=self._recipe.al.query_size,
            round=self.number,
            precisions=tuple(query["precision"] for query in queries if query.get("size")),
            rng=rng.generator(self._recipe.seed, stream, self.number),
            jit=self._phases.jit,
            relabeled={name: self._relabeled[name][0] for name in names if name in self._relabeled},
        )

    def _predictions(self, name: str) -> Any:
        """Outputs of the network of a phase for all images, as the pool is scored."""
        if name not in self._predicted:
            self._predicted[name] = self._evaluate("predict", name, self._everything, self.number)
        return self._predicted[name]

    def _observations(self, name: str) -> tuple[jax.Array, int]:
        observed = self._saved.arrays["observed"][name]
        total, count = observed["sum"], int(observed["count"])
        return total / np.float32(max(count, 1)), count

    @property
    def _everything(self) -> np.ndarray:
        return np.arange(len(self._annotations))

    def _evaluate(self, kind: str, name: str, ids: np.ndarray, *at: int) -> Any:
        """As `Phases.evaluate`, by the current network of a phase."""
        return self._phases.evaluate(kind, name, self._saved.networks[name], ids, *at)

    def target_probs(self) -> np.ndarray:
        """The target classifier's probabilities `[N, K]` of all images, as the pool is scored."""
        name = self._phases.strategy.target
        class_probs = cast(Callable, self._phases.by_name[name].class_probs)
        probs = fetch(self._phases.jit("target/probs", class_probs)(self._predictions(name)))
        return probs[: len(self._annotations)]

    def test_probs(self, name: str, split: OpenSetSplit) -> np.ndarray:
        """Class probabilities `[n, K]` of the n test images of known classes."""
        ids = np.flatnonzero(split.test_known)
        return fetch(self._evaluate("test", name, ids, self.number))[ids]

    def test_accuracies(self, split: OpenSetSplit) -> dict[str, float]:
        """Accuracy of every trained classifier on the test images of known classes."""
        strategy, targets, values = self._phases.strategy, split.test_targets[split.test_known], {}
        for name in self.trained:
            if "test" in self._phases.programs[name].evaluate:
                hits = metrics.topk_accuracy(self.test_probs(name, split), targets, 1)
                key = "accuracy" if name == strategy.target else f"{name}_accuracy"
                values[key] = float(np.asarray(hits).mean(dtype=np.float64))
        return values

    def final_predictions(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Probabilities of all images in the test view: `[N, K]` of the known classes, and `[N]` of
        being unknown, None if no network that tells unknown images apart was trained."""
        phases, detector = self._phases, self._phases.strategy.detector
        target = phases.by_name[phases.strategy.target]
        class_probs = cast(Callable, target.class_probs)
        count = len(self._annotations)
        probs = fetch(class_probs(self._evaluate("all", target.name, self._everything)))[:count]
        if not detector or not np.any(self._annotations == phases.problem.num_classes):
            return probs, None
        index = list(phases.by_name).index(detector)
        if not self.members(index).size:
            return probs, None
        logits = self._evaluate("all", detector, self._everything)
        if phases.strategy.unknown_probs is not None:
            _, scalars = self.labels(index)
            return probs, fetch(phases.strategy.unknown_probs(logits, scalars))[:count]
        logits = logits["logits"] if isinstance(logits, dict) else logits
        return probs, fetch(jax.nn.softmax(logits, axis=-1))[:count, -1]
