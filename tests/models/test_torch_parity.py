"""Every backbone computes what the same network computes in PyTorch, which a test alone needs."""

import importlib.util
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.errors import UserError
from jaxrobust.models import BACKBONES, make_classifier
from jaxrobust.models.convert import convert_state_dict
from jaxrobust.models.torch_files import read_state_dict

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install jaxrobust[test-torch]")

_path = pathlib.Path(__file__).parent / "torch_reference.py"
_spec = importlib.util.spec_from_file_location("torch_reference", _path)
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

NUM_CLASSES = 7


def _randomised(module):
    """The module in evaluation mode, with weights that carry the images through to the logits."""
    random = np.random.default_rng(0)
    for name, tensor in module.state_dict().items():
        if tensor.ndim == 1:
            around_one = name.endswith(("weight", "running_var"))
            values = around_one + random.uniform(-0.3, 0.3, tensor.shape)
        elif tensor.ndim > 1:
            deviation = np.sqrt(2 / tensor[0].numel())
            values = deviation * random.standard_normal(tensor.shape, np.float32)
        else:
            continue
        tensor.copy_(torch.from_numpy(values))
    return module.eval()


@pytest.mark.parametrize("arch", BACKBONES)
def test_logits_equal_those_of_pytorch(arch, quick_jit):
    size = 32 if arch.startswith("mobilenet") or arch.endswith("_imagenet") else 16
    module = _randomised(reference.make(arch, NUM_CLASSES))
    # Coarse patterns: fine noise would be averaged away before it reached the logits.
    coarse = np.random.default_rng(0).standard_normal((2, 4, 4, 3))
    images = np.float32(2 * coarse.repeat(size // 4, 1).repeat(size // 4, 2))
    with torch.inference_mode():
        expected = module(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    tensors = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    num_classes, variables = convert_state_dict(arch, tensors)
    assert num_classes == NUM_CLASSES
    classifier = make_classifier(arch, num_classes=num_classes, auxiliary="none", dtype=jnp.float32)
    outputs = quick_jit(classifier.apply)(variables, jnp.asarray(images))
    spread = np.abs(expected - expected.mean(0)).max()
    assert spread > 0.01 * np.abs(expected).max()
    np.testing.assert_allclose(outputs.logits, expected, rtol=0, atol=1e-3 * spread)


def test_files_of_pytorch_are_read(tmp_path):
    kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool]
    state = {f"module.{kind}": torch.tensor([[0, 1], [2, 3]]).to(kind).T for kind in kinds}
    state["module.scalar"] = torch.nn.Parameter(torch.tensor(2.5))
    path = tmp_path / "checkpoint.pth"
    torch.save({"epoch": 240, "model": state, "optimizer": {"lr": [0.1], "m": state}}, path)
    found = read_state_dict(path)
    assert found.keys() == {name.removeprefix("module.") for name in state}
    for name, tensor in state.items():
        array = found[name.removeprefix("module.")]
        np.testing.assert_array_equal(array.astype(np.float64), tensor.detach().double().numpy())


def test_the_old_format_of_pytorch_is_refused(tmp_path):
    path = tmp_path / "old.pth"
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match=r"older than PyTorch 1\.6"):
        read_state_dict(path)
