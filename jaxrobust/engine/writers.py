"""Writers of metrics: a JSON-lines file, TensorBoard, Weights & Biases."""

import json
import logging
import os
import pathlib
import secrets
from collections.abc import Iterable
from typing import Protocol

from jaxrobust.errors import UserError, unknown_name

log = logging.getLogger("jaxrobust")

WRITERS = ("auto", "jsonl", "tensorboard", "wandb")


class Writer(Protocol):
    """Receives one event at a time."""

    def write(self, event: dict) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """`metrics.jsonl`: one JSON object per line."""

    def __init__(self, path: pathlib.Path, *, keep_bytes: int):
        """Opens `path` and cuts it to `keep_bytes`, its length at the checkpoint."""
        self._file = open(path, "ab")
        self._file.truncate(min(keep_bytes, os.path.getsize(path)))

    @property
    def size(self) -> int:
        """Bytes written so far."""
        self._file.flush()
        return os.path.getsize(self._file.name)

    def write(self, event: dict) -> None:
        self._file.write(json.dumps(event).encode() + b"\n")

    def flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self.flush()
        self._file.close()


def _numbers(event: dict) -> dict[str, float]:
    """The event's measurements, tagged `split/phase/name`."""
    tag = "/".join(str(event[k]) for k in ("split", "phase") if k in event)
    skip = ("step", "round", "epoch", "seconds")
    return {
        f"{tag}/{name}": value
        for name, value in event.items()
        if isinstance(value, (int, float)) and name not in skip
    }


class TensorBoard:
    """TensorBoard event files, by way of tensorboardX."""

    def __init__(self, directory: pathlib.Path, *, first_step: int):
        """Events of an earlier attempt at or after `first_step` are hidden by TensorBoard."""
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(directory), purge_step=first_step or None)

    def write(self, event: dict) -> None:
        for name, value in _numbers(event).items():
            self._writer.add_scalar(name, value, event["step"])

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """One Weights & Biases run per workdir; a restart continues the same run."""

    def __init__(self, workdir: pathlib.Path, config: dict):
        import wandb
        from wandb.errors import Error

        identity = workdir / "wandb_id.txt"
        if not identity.exists():
            identity.write_text(secrets.token_hex(8))
        try:
            self._run = wandb.init(
                project="jaxrobust",
                name=workdir.name,
                dir=str(workdir),
                config=config,
                id=identity.read_text().strip(),
                resume="allow",
            )
        except Error as error:
            raise UserError(
                f"Weights & Biases cannot be used ({str(error).splitlines()[0]}); type `wandb "
                "login`, set WANDB_MODE=offline, or take it out of --config.writers."
            ) from None

    def write(self, event: dict) -> None:
        self._run.log(_numbers(event), step=event["step"])

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self._run.finish()


def writer_names(given: Iterable[str]) -> list[str]:
    """The names in a recipe's `writers`, one of which may be `a,b`; refuses others."""
    names = [name.strip() for names in given for name in names.split(",")]
    for name in names:
        if name not in WRITERS:
            raise UserError(unknown_name("writer", name, WRITERS))
    return names


def optional_writers(
    names: tuple[str, ...], workdir: pathlib.Path, *, first_step: int, config: dict
) -> list[Writer]:
    """The writers beside `metrics.jsonl` that a recipe asks for.

    `auto` is TensorBoard where tensorboardX is installed. `jsonl` is written in any case. Refused
    is what is asked for by name and not installed or, of Weights & Biases, cannot be logged in to.
    """
    writers: list[Writer] = []
    chosen = writer_names(names)
    if "tensorboard" in chosen or "auto" in chosen:
        try:
            writers.append(TensorBoard(workdir / "tensorboard", first_step=first_step))
        except ModuleNotFoundError:
            if "tensorboard" in chosen:
                raise _not_installed("tensorboard") from None
            log.info(
                "No TensorBoard files are written: pip install 'jaxrobust[tensorboard]' to get "
                "them."
            )
    if "wandb" in chosen:
        try:
            writers.append(WeightsAndBiases(workdir, config))
        except ModuleNotFoundError:
            raise _not_installed("wandb") from None
    return writers


def _not_installed(name: str) -> UserError:
    return UserError(
        f"writers names {name}, which is not installed; pip install 'jaxrobust[{name}]' or "
        "remove it from --config.writers."
    )
