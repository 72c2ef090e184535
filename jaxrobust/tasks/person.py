"""A person as oracle: images and classes may be added, and answers changed, between two rounds."""

import logging
import pathlib
from collections.abc import Callable

import numpy as np

from jaxrobust.data.dataset import ReadableDataset
from jaxrobust.errors import UserError
from jaxrobust.methods.strategy import NOT_ANNOTATED, Query
from jaxrobust.recipes.protocols import ActiveLearning, Al
from jaxrobust.tasks import annotation_files
from jaxrobust.tasks.annotator import SKIP, UNKNOWN, Annotator, Merged, new_class_problem
from jaxrobust.tasks.known_images import KnownImages, View
from jaxrobust.tasks.oracles import Oracle

log = logging.getLogger("jaxrobust")


class Person:
    """What a person's run is about, in all of its rounds, now or from a later round on."""

    def __init__(self, recipe: ActiveLearning, workdir: pathlib.Path, dataset: ReadableDataset):
        fields, self._al = recipe.dataset, recipe.al
        check_unlabeled_files(dataset, fields.features or dataset.name)
        self._new_classes = _new_classes(recipe, dataset)
        self._folder = workdir / "queries"
        self._root = pathlib.Path(fields.path).expanduser() if fields.path else None
        if recipe.al.links and self._root is None:
            raise UserError(
                "al.links=True links to the images; set --config.dataset.path= to the folder that "
                "the names in the file of features are relative to."
            )
        self.images = KnownImages(
            self._folder / "images.json",
            dataset,
            self._root,
            overridden=bool(fields.mean) or bool(fields.std),
        )

    def begin(self) -> None:
        """Writes the list of images."""
        self.images.write()
        if self.images.moved:
            log.info("%d images were found under new names", self.images.moved)

    def oracle(self, view: View) -> "PersonOracle":
        """The person as oracle of rounds in which these images and classes are used."""
        others = (*self.images.class_names, *self._new_classes)
        annotator = Annotator(self._folder, self._root, self.images.files, view.class_names, others)
        return PersonOracle(annotator, self.images, view.split.targets, self._al)


class PersonOracle(Oracle):
    """A person answers, in a table. Only the answers are known: no recall, and AUROCs over them.

    `labels` int32 `[N]` are of the images of this round by their folders, `NOT_ANNOTATED` for none.
    """

    may_wait = True

    def __init__(self, annotator: Annotator, images: KnownImages, labels: np.ndarray, al: Al):
        self._annotator = annotator
        self._images = images
        self._labels = labels
        self._al = al
        self._codes = {name: i for i, name in enumerate(annotator.class_names)}

    def asked(self, round_: int) -> Query | None:
        return self._annotator.asked(round_, len(self._labels))

    def eligible(self, round_: int, in_pool: np.ndarray) -> np.ndarray:
        return self._annotator.eligible(round_, in_pool)

    def has_query(self, round_: int, in_pool: np.ndarray) -> bool:
        if self.asked(round_) is not None:
            return True
        return bool(self.eligible(round_, in_pool).any()) and not self._al.finish

    def ask(self, round_: int, query: Query, probs: Callable[[], np.ndarray]) -> None:
        names = self._annotator.class_names
        suggestions = [(names[int(p.argmax())], float(p.max())) for p in probs()[query.ids]]
        self._annotator.ask(round_, query, suggestions)

    def answers(self, round_: int, query: Query) -> tuple[np.ndarray, np.ndarray] | None:
        self._annotator.show(round_, query)
        answers = self._annotator.answers(round_)
        self._annotator.show_answers(round_, query, answers)
        if answers.is_untouched:
            return None
        ids = np.array([i for i in query.ids if int(i) in answers.labels], np.int64)
        return ids, np.array([self._code(answers.labels[int(i)]) for i in ids], np.int32)

    def _code(self, label: str) -> int:
        """Of an answer; a class that is not used in this round yet counts as unknown."""
        return self._codes.get(label, len(self._codes))

    def annotations(self, num_rounds: int, before: np.ndarray) -> np.ndarray:
        annotations = self._labels.copy()
        for round_ in range(num_rounds):
            query = self.asked(round_)
            if query is not None and not self._annotator.table(round_).exists():
                annotations[query.ids] = before[query.ids]
        for i, label in self._answers(num_rounds).labels.items():
            annotations[i] = self._code(label)
        return annotations

    def _answers(self, num_rounds: int) -> Merged:
        """To the queries of the first rounds, as the tables are now."""
        return self._annotator.merged(num_rounds)

    def judge(
        self, query: Query, answers: np.ndarray, in_pool: np.ndarray, num_labeled_known: int
    ) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
        return {}, query.ids, answers == len(self._codes)

    def begin_round(self, round_: int) -> bool:
        labels = list(self._answers(round_).labels.values())
        answered = set(labels) - {UNKNOWN}
        self._images.begin_round(round_, sorted(answered - set(self._images.class_names)))
        self._images.write()
        count, names = self._images.changes_at(round_)
        if count or names:
            classes = f" and the classes {annotation_files.shorten(names)}" if names else ""
            log.info("%d new images%s are used from round %d on", count, classes, round_)
            if names and (before := labels.count(UNKNOWN)):
                log.info(
                    "%d answers are “unknown” from before these classes existed; to review "
                    "them: jaxrobust review RUN --round=N, View, Show unknown",
                    before,
                )
        return bool(count or names)

    def waiting_for(self, round_: int) -> tuple[pathlib.Path, list[str]]:
        annotator = self._annotator
        table, page = annotator.table(round_), annotator.page(round_)
        count = len(annotator.answers(round_).empty)
        return table, [
            f"{count} images to annotate: open {page} in a browser and replace {table} with the "
            f"table that it saves, or fill in the column `label` of {table}",
            f"valid labels: {', '.join([*annotator.class_names, UNKNOWN])}, {SKIP} to skip an "
            "image, or empty to be asked again later; then rerun the same command; to finish, "
            "add --config.al.finish=True",
        ]

    def write_files(
        self,
        workdir: pathlib.Path,
        num_rounds: int,
        annotations: np.ndarray,
        predict: Callable[[], tuple[np.ndarray, np.ndarray | None]],
    ) -> list[str]:
        class_names = self._annotator.class_names
        names, files = [*class_names, UNKNOWN], self._annotator.files[: len(annotations)]
        answers, is_in_pool = self._answers(num_rounds), annotations == NOT_ANNOTATED
        asked = np.flatnonzero(~is_in_pool & (self._labels == NOT_ANNOTATED))
        labels = {int(i): names[annotations[i]] for i in asked}
        annotation_files.write_annotations(
            workdir / annotation_files.ANSWERS, files, labels | answers.labels, answers.rounds
        )
        probs, unknown_probs = predict()
        rest = np.flatnonzero(is_in_pool)
        annotation_files.write_predictions(
            workdir / annotation_files.PREDICTIONS,
            [files[i] for i in rest.tolist()],
            class_names,
            probs[rest],
            None if unknown_probs is None else unknown_probs[rest],
        )
        lines = [
            f"your annotations of all rounds: {workdir / annotation_files.ANSWERS}",
            f"predicted classes of the {len(rest)} other images: "
            f"{workdir / annotation_files.PREDICTIONS}",
        ]
        if self._al.links and self._annotator.root is not None:
            predicted = probs.argmax(axis=1)
            if unknown_probs is not None:
                predicted = np.where(unknown_probs > 0.5, len(class_names), predicted)
            classes = np.where(is_in_pool, predicted, annotations)
            folder = workdir / annotation_files.LINKS
            count = annotation_files.link_by_class(
                folder, self._annotator.root, files, [names[code] for code in classes.tolist()]
            )
            lines.append(f"links to {count} images by class: {folder}")
        return lines


def check_unlabeled_files(dataset: ReadableDataset, source: str) -> None:
    """Refuses data without unlabelled images or files, or with a class named as an answer is."""
    if dataset.unlabeled is None:
        raise UserError(
            f"oracle='csv' asks a person about unlabelled images, but {dataset.name} has none; "
            "use configs/...:image_folder with the images in a folder `unlabeled` next to the "
            "class folders."
        )
    if dataset.train.files is None:
        raise UserError(
            f"oracle='csv' asks about files, but {source} names none: write it with python -m "
            "jaxrobust.embed."
        )
    for name in (UNKNOWN, SKIP):
        if name in dataset.class_names:
            raise UserError(
                f"A class folder may not be called {name!r} with oracle='csv', since that is a "
                "reserved answer; rename it."
            )


def _new_classes(recipe: ActiveLearning, dataset: ReadableDataset) -> list[str]:
    """Names that a person has confirmed to be those of classes."""
    names = [name.strip() for name in recipe.al.new_classes.split(",") if name.strip()]
    for name in names:
        if problem := new_class_problem(name):
            raise UserError(f"al.new_classes={recipe.al.new_classes}: {problem}; correct it.")
    return [name for name in names if name not in dataset.class_names]
