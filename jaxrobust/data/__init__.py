"""Data: sets and their sources, open-set splits, label noise, augmentation, streaming.

Importing it does not load JAX, so listing the names of data sets is fast; code that runs on the
device is loaded on first use.
"""

from typing import Any

from jaxrobust.data.dataset import Dataset as Dataset
from jaxrobust.data.dataset import Examples as Examples
from jaxrobust.data.dataset import FileDataset as FileDataset
from jaxrobust.data.dataset import FileExamples as FileExamples
from jaxrobust.data.dataset import fingerprint as fingerprint
from jaxrobust.data.features import FeatureDataset as FeatureDataset
from jaxrobust.data.features import FeatureExamples as FeatureExamples
from jaxrobust.data.features import load_features as load_features
from jaxrobust.data.open_set import OpenSetSplit as OpenSetSplit
from jaxrobust.data.open_set import open_set_split as open_set_split
from jaxrobust.data.sources import list_dataset as list_dataset
from jaxrobust.data.sources import load_dataset as load_dataset
from jaxrobust.data.subsets import archive_order as archive_order


def __getattr__(name: str) -> Any:
    if name not in ("normalize", "pad_crop_flip"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from jaxrobust.data import augment

    return getattr(augment, name)
