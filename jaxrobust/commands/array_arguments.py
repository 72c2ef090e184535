"""Shared by the commands on files of arrays: arguments, and reading the files."""

import argparse
import pathlib
import sys
from typing import Any

import numpy as np

from jaxrobust.data.array_files import names_in, open_arrays
from jaxrobust.data.names import escaped
from jaxrobust.errors import UserError

FEATURES_HELP = ".npz or .npy file [N, D] or [N, V, D], for example from jaxrobust embed"


def add_training(parser: argparse.ArgumentParser, methods: str) -> None:
    parser.add_argument("--method", help=f"method {methods}")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the training")
    parser.add_argument("--config", help="recipe instead of the method's own, such as dpc:features")
    parser.add_argument(
        "--workdir",
        type=pathlib.Path,
        help="folder that keeps the run, so that it can be continued",
    )


def training(arguments: argparse.Namespace) -> dict[str, Any]:
    """Arguments of the function, with a progress bar on a terminal."""
    names = ("method", "seed", "config", "workdir")
    return {n: getattr(arguments, n) for n in names} | {"progress": sys.stderr.isatty()}


def features(path: pathlib.Path) -> np.ndarray:
    check_exists(path)
    arrays = open_arrays(path)
    if "features" not in arrays:
        raise UserError(
            f"{path} holds no array 'features' or 'pred_probs', only {_listed(arrays)}; name a "
            "file that does by --features= or --pred-probs=."
        )
    return arrays["features"]


def is_npz(path: pathlib.Path) -> bool:
    return path.suffix == ".npz"


def holds(path: pathlib.Path, name: str) -> bool:
    return is_npz(path) and path.is_file() and name in names_in(path)


def named(arrays: dict[str, np.ndarray], path: pathlib.Path, name: str) -> np.ndarray:
    if name not in arrays:
        raise UserError(
            f"{path} holds no array {name!r}, only {_listed(arrays)}; save it under that name."
        )
    return arrays[name]


def _listed(arrays: dict[str, np.ndarray]) -> str:
    return ", ".join(escaped(name)[:80] for name in list(arrays)[:10]) or "none"


def check_exists(path: pathlib.Path) -> None:
    if not path.is_file():
        raise UserError(f"There is no file {path}; correct its name.")
