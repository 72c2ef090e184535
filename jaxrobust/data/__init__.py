"""Data: sources, open-set splits and augmentation."""

from jaxrobust.data.augment import normalize as normalize
from jaxrobust.data.augment import pad_crop_flip as pad_crop_flip
from jaxrobust.data.multilabel import FileDataset as FileDataset
from jaxrobust.data.multilabel import FileExamples as FileExamples
from jaxrobust.data.multilabel import list_dataset as list_dataset
from jaxrobust.data.open_set import OpenSetSplit as OpenSetSplit
from jaxrobust.data.open_set import open_set_split as open_set_split
from jaxrobust.data.sources import Dataset as Dataset
from jaxrobust.data.sources import Examples as Examples
from jaxrobust.data.sources import archive_order as archive_order
from jaxrobust.data.sources import fingerprint as fingerprint
from jaxrobust.data.sources import load_dataset as load_dataset
