import os

from configs import dcfs
from jaxrobust.engine import runtime


def test_deterministic_runs_ask_xla_for_it_once(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    config = dcfs.get_config("digits")
    runtime.setup_jax(config)
    assert "deterministic" not in os.environ["XLA_FLAGS"]
    config.deterministic = True
    for _ in range(2):
        runtime.setup_jax(config)
    expected = "--xla_cpu_enable_fast_math=false --xla_gpu_deterministic_ops=true"
    assert os.environ["XLA_FLAGS"] == expected


def test_the_environment_names_what_numbers_may_depend_on(monkeypatch):
    monkeypatch.setenv("JAX_SOMETHING", "1")
    monkeypatch.setenv("SECRET_TOKEN", "x")
    found = runtime.environment("bfloat16")
    assert found["dtype"] == "bfloat16"
    assert found["variables"]["JAX_SOMETHING"] == "1" and "SECRET_TOKEN" not in found["variables"]
    assert {"jax", "jaxlib", "flax", "optax", "numpy"} <= found["versions"].keys()
    assert found.keys() >= {"started", "command", "devices", "commit", "python", "platform", "x64"}
