"""Data: sets and their sources, open-set splits, label noise, augmentation, streaming."""

from jaxrobust.data.augment import normalize as normalize
from jaxrobust.data.augment import pad_crop_flip as pad_crop_flip
from jaxrobust.data.dataset import Dataset as Dataset
from jaxrobust.data.dataset import Examples as Examples
from jaxrobust.data.dataset import FileDataset as FileDataset
from jaxrobust.data.dataset import FileExamples as FileExamples
from jaxrobust.data.dataset import fingerprint as fingerprint
from jaxrobust.data.open_set import OpenSetSplit as OpenSetSplit
from jaxrobust.data.open_set import open_set_split as open_set_split
from jaxrobust.data.sources import list_dataset as list_dataset
from jaxrobust.data.sources import load_dataset as load_dataset
from jaxrobust.data.subsets import archive_order as archive_order
