"""`import jaxrobust.losses` must cost a JAX programmer nothing but JAX."""

import json
import os
import shutil
import subprocess
import sys
import typing

import pytest

import jaxrobust

HEAVY = ("tensorflow_datasets", "tensorflow", "orbax", "wandb", "torch", "flax", "optax", "sklearn")

SCRIPT = """
import json, sys, time
start = time.process_time()
import jax
after_jax = time.process_time()
import {package}
end = time.process_time()
from jax._src import xla_bridge
print(json.dumps({{
    "own": end - after_jax,
    "total": end - start,
    "modules": sorted(sys.modules),
    "backend": xla_bridge.backends_are_initialized(),
}}))
"""


def fresh_import(package):
    """What one import did, in an interpreter of its own."""
    command = [sys.executable, "-W", "error", "-c", SCRIPT.format(package=package)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_package_itself_loads_no_jax():
    script = "import sys, jaxrobust; print(*sys.modules); print(*dir(jaxrobust))"
    command = [sys.executable, "-W", "error", "-c", script]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    loaded, names = map(str.split, done.stdout.splitlines())
    assert not {"jax", "numpy", *HEAVY} & set(loaded)
    assert set(jaxrobust.__all__) <= set(names)


def test_every_public_name_is_there():
    assert set(jaxrobust._LAZY) < set(jaxrobust.__all__)
    for name in jaxrobust.__all__:
        assert hasattr(jaxrobust, name)
    with pytest.raises(AttributeError, match="no attribute 'find_labels'"):
        _ = jaxrobust.find_labels
    assert not {"Any", "importlib"} & set(dir(jaxrobust))


@pytest.mark.skipif(shutil.which("node") is None, reason="pyright would fetch Node.js")
def test_a_type_checker_sees_misspelt_names_and_methods(tmp_path):
    script = tmp_path / "script.py"
    right = (
        "import jaxrobust",
        "issues = jaxrobust.find_label_issues([0, 1], [[1, 0], [0, 1]], method=None)",
        "jaxrobust.query([0, 1, None], features=[[0], [1], [2]], budget=1, method='margin')",
        "issues.top(3), issues.estimate({0: True}).most_left",
        "jaxrobust.RobustClassifier('bldr', num_epochs=3).fit([[0.0]], [1])",
    )
    wrong = {
        "jaxrobust.find_label_isues([0, 1])": '"find_label_isues" is not a known attribute',
        "jaxrobust.query([0, 1], features=[[0], [1]], budget=1, method='margn')": "margn",
        "jaxrobust.find_label_issues([0, 1], features=[[0], [1]], method='dcp')": "dcp",
        "jaxrobust.RobustClassifier('dcp')": "dcp",
        "jaxrobust.distill([], [], teacher=print, method='dhdk')": "dhdk",
        "issues.is_isue": '"is_isue" for class "LabelIssues"',
    }
    script.write_text("\n".join((*right, *wrong)) + "\n")
    command = [sys.executable, "-m", "pyright", str(script), "--pythonpath", sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    for number, words in enumerate(wrong.values(), len(right) + 1):
        assert f"script.py:{number}:" in done.stdout and words in done.stdout, done.stdout
    assert f"{len(wrong)} errors" in done.stdout, done.stdout


def test_the_names_of_methods_for_editors_are_those_of_the_registries():
    from jaxrobust.recipes import methods

    for names, registry in (
        (methods.StrategyName, methods.STRATEGIES),
        (methods.NoisyLabelMethodName, methods.NOISY_LABEL_METHODS),
        (methods.JudgeName, methods.JUDGES),
        (methods.DistillerName, methods.DISTILLERS),
    ):
        assert list(typing.get_args(names)) == sorted(registry)


def test_packages_are_attributes_without_an_import_of_their_own():
    script = "import jaxrobust; print(jaxrobust.losses.edl_nll.__name__, jaxrobust.metrics.auroc)"
    command = [sys.executable, "-W", "error", "-c", script]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.stdout.startswith("edl_nll"), done.stderr


@pytest.mark.parametrize("package", ["jaxrobust.losses", "jaxrobust.selection"])
def test_import_is_light(package):
    found = fresh_import(package)
    loaded = set(found["modules"])
    assert package in loaded
    assert not loaded & set(HEAVY)
    assert not found["backend"]
    # Of the processor, so that a busy machine does not stall them.
    assert found["own"] < 1
    assert found["total"] < 20


def test_listing_methods_imports_no_jax():
    listing = (
        "import sys; from jaxrobust.recipes import methods; "
        "print([r.entry(n).summary for r in (methods.STRATEGIES, methods.NOISY_LABEL_METHODS, "
        "methods.DISTILLERS, methods.MULTILABEL_DISTILLERS) for n in r]); "
        "assert 'jax' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Dirichlet-based prediction calibration" in done.stdout and "''" not in done.stdout


def test_every_listed_method_is_a_function():
    from jaxrobust.recipes import methods

    for registry in (
        methods.STRATEGIES,
        methods.NOISY_LABEL_METHODS,
        methods.DISTILLERS,
        methods.MULTILABEL_DISTILLERS,
    ):
        assert all(callable(function) for function in registry.values())
