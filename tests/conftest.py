"""Guard rails for every test: strict dtypes, no silent broadcasting, eight virtual CPU devices."""

import collections
import contextlib
import functools
import importlib.metadata
import importlib.util
import os
import pathlib
import re
import shutil
import sys

import numpy as np
import pytest

# Set before JAX starts: a test must never pick up an accelerator or its rounding.
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import matplotlib
from commands import save_unrendered, search_less_for_cycles

search_less_for_cycles()  # while tests are collected, too

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Nearly all programs run once or twice: compiling is their cost. `OPTIMISED=1` in the environment
# compiles them as a user's are; commands that tests start always are, but for `quick_commands`.
jax.config.update("jax_disable_most_optimizations", "OPTIMISED" not in os.environ)

one_context = None

# jax 0.10 still has the CPU compiler's old emitters, with which a program takes a third to a half
# as long to compile; newer ones refuse the flag. In one part, it is compiled with the least work.
QUICK_XLA = ""
if importlib.metadata.version("jaxlib").startswith("0.10.") and "XLA_FLAGS" not in os.environ:
    QUICK_XLA = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = QUICK_XLA
    jax.devices()
    del os.environ["XLA_FLAGS"]
    # To make a context of MLIR for each takes a fifth of compiling a small program.
    from jax._src.interpreters import mlir

    one_context = mlir.make_ir_context = functools.cache(mlir.make_ir_context)

# A small run is traced for longer than it computes; where its lines stand is not asked.
jax.config.update("jax_traceback_in_locations_limit", 0)
jax.config.update("jax_include_full_tracebacks_in_locations", False)

# Nearly all of the suite's time is compiling, so that a second run takes a fraction of the first.
if jax.config.values["jax_compilation_cache_dir"] is None:
    cache = pathlib.Path.home() / ".cache" / "jaxrobust" / "tests"
    cache /= f"{importlib.metadata.version('jaxlib')}-{sys.implementation.cache_tag}"
    jax.config.update("jax_compilation_cache_dir", str(cache))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_collection_modifyitems(items):
    """Files with slow tests first, so that no process is left alone with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    search_less_for_cycles()


GOLDEN = pathlib.Path(__file__).parent / "golden"


class Golden:
    """Recorded arrays of one paper, read as `golden[case, name]`."""

    def __init__(self, name: str):
        with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as arrays:
            self._arrays = dict(arrays)

    def __getitem__(self, key: tuple[str, str]) -> np.ndarray:
        return self._arrays["/".join(key)]

    def __contains__(self, key: tuple[str, str]) -> bool:
        return "/".join(key) in self._arrays

    def names(self, case: str) -> list[str]:
        return [k.split("/", 1)[1] for k in self._arrays if k.startswith(case + "/")]

    def cases(self, prefix: str) -> list[str]:
        return sorted({k.split("/", 1)[0] for k in self._arrays if k.startswith(prefix)})


@pytest.fixture(scope="session")
def load_golden():
    """Function from a paper's name to its recorded arrays."""
    return functools.cache(Golden)


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium without a window; its tests are skipped where it is missing."""
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("playwright is not installed: pip install '.[test]'")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if path is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Frees the programs of a module: Linux lets a process map 65,530 regions, a few for each."""
    yield
    jax.clear_caches()
    if one_context is not None:
        one_context.cache_clear()


@pytest.fixture(scope="session", autouse=True)
def cache_of_commands():
    """Commands that tests start have a cache too, of their own: a kill may leave half a program."""
    cache = f"{jax.config.values['jax_compilation_cache_dir']}/commands"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", cache)
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        patch.setenv("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
        # Where $HOME is another, Matplotlib would look for all fonts again.
        patch.setenv("MPLCONFIGDIR", matplotlib.get_cachedir())
        yield


@pytest.fixture
def x64():
    """Runs one test in double precision."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def one_device():
    """Runs on the first of the eight virtual devices, as on a user's CPU."""
    from jaxrobust.engine import sharding

    make_placement = sharding.make_placement

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "make_placement", lambda **_: make_placement(jax.devices()[:1]))
        yield


@pytest.fixture(scope="module")
def tiny_network():
    """`model.name="tiny"`: one block of four channels, quick to compile; `tiny2`: two stages."""
    import tiny_recipe

    with pytest.MonkeyPatch.context() as patch:
        for name, network in tiny_recipe.NETWORKS.items():
            patch.setitem(tiny_recipe.models.NETWORKS, name, network)
        yield


@pytest.fixture(scope="module")
def tiny_backbones():
    """Backbones `tiny4` and `tiny8`: one block of 4 or 8 channels, quick to compile."""
    import tiny_recipe

    with pytest.MonkeyPatch.context() as patch:
        for name, backbone in tiny_recipe.BACKBONES.items():
            patch.setitem(tiny_recipe.models.BACKBONES, name, backbone)
        yield


@pytest.fixture(scope="session")
def watched_programs():
    """`Programs` that count their calls, and after a certain one do something once.

    Attributes:
      calls: of every program, by name.
      after: `(name, number of the call, action)`.
    """
    from jaxrobust.engine.programs import Programs

    class Watched(Programs):
        def __init__(self, placement=None):
            super().__init__(placement)
            self.calls = collections.Counter()
            self.after = None

        def jit(self, name, function, **options):
            program = super().jit(name, function, **options)

            def called(*args):
                results = program(*args)
                self.calls[name] += 1
                if self.after and (name, self.calls[name]) == self.after[:2]:
                    action, self.after = self.after[2], None
                    action()
                return results

            return called

    return Watched


@pytest.fixture(scope="module")
def shared_programs():
    """Runs of a module whose programs would be equal share them, as seeds of a recipe do.

    Tracing and compiling is nearly all that a small run costs.
    """
    from jaxrobust.engine import run
    from jaxrobust.engine.programs import Programs

    compiled, metrics = {}, {}

    class Shared(Programs):
        def __init__(self):
            super().__init__()
            self.metrics = metrics
            self.shapes = {}

        def jit(self, name, function, *, static, visits=None, **options):
            def called(*args):
                # A run whose shapes change goes on with its first program, which refuses them.
                shapes = self.shapes.setdefault(name, [*map(np.shape, jax.tree.leaves(args))])
                key = name, static, repr(options), str(shapes)
                if key not in compiled:
                    compiled[key] = Programs().jit(name, function, static=static, **options)
                self.traces[name] = 1
                return compiled[key](*args)

            return called

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "Programs", Shared)
        yield


@pytest.fixture
def compiled(caplog):
    """A context that gives the names of the programs that are compiled within it."""

    @contextlib.contextmanager
    def names():
        found = []
        caplog.clear()
        with jax.log_compiles():
            yield found
        lines = (record.getMessage() for record in caplog.records)
        found += [m[1] for line in lines if (m := re.match(r"Compiling (?:jit\()?([\w<>]+)", line))]

    return names


@pytest.fixture
def unrendered_figures(monkeypatch):
    """Figures are drawn up but not laid out and rendered: two thirds of what they cost."""
    from jaxrobust.report import figures

    monkeypatch.setattr(figures, "_save", save_unrendered)


@pytest.fixture
def optimised():
    """Programs of one test are compiled as a user's are."""
    was = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", was)


@pytest.fixture(scope="module")
def quick_commands():
    """Commands that tests of the module start hardly optimise their programs."""
    with pytest.MonkeyPatch.context() as patch:
        if "OPTIMISED" not in os.environ:
            patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
            if QUICK_XLA:
                patch.setenv("XLA_FLAGS", QUICK_XLA)
        yield


@pytest.fixture(scope="session")
def write_images():
    """Writes `count` random images of a size, (height, width), into a new folder."""
    from PIL import Image

    def write(folder, count, size, seed):
        folder.mkdir(parents=True)
        images = np.random.default_rng(seed).integers(0, 256, (count, *size, 3), np.uint8)
        for i, image in enumerate(images):
            Image.fromarray(image).save(folder / f"{i}.png")

    return write


@pytest.fixture(scope="session")
def voc_folder():
    """The script `voc_folder.py`, as a module."""
    path = pathlib.Path(__file__).parent / "voc_folder.py"
    spec = importlib.util.spec_from_file_location("voc_folder", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def write_voc(voc_folder):
    """Writes images and their classes in the layout of Pascal VOC 2007."""
    return voc_folder.write_split


@pytest.fixture(scope="session")
def write_webvision():
    """Writes images and their classes in the layout of WebVision 1.0."""
    from PIL import Image

    def write(root, images, classes):
        """`images[i]`, of class `classes[i]`, is training image i and validation image i."""
        (root / "info").mkdir(parents=True)
        (root / "val_images_256").mkdir()
        listings = {"train_filelist_google": [], "val_filelist": []}
        for i, (image, label) in enumerate(zip(images, classes, strict=True)):
            (root / "google" / f"q{label:04}").mkdir(parents=True, exist_ok=True)
            for listing, folder, file in (
                ("train_filelist_google", ".", f"google/q{label:04}/{i}.jpg"),
                ("val_filelist", "val_images_256", f"val{i}.jpg"),
            ):
                Image.fromarray(image).save(root / folder / file, quality=95)
                listings[listing].append(f"{file} {label}")
        for name, lines in listings.items():
            (root / "info" / f"{name}.txt").write_text("\n".join(lines) + "\n")

    return write
