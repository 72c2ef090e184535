"""Folders of images per class."""

import numpy as np
import pytest
from PIL import Image

from jaxrobust.data.class_folders import test_folder as read_test_folder
from jaxrobust.errors import DataError


def test_a_second_test_set_has_the_classes_to_train_on(tmp_path):
    """ImageNet's folders for WebVision's classes, whose names begin with the identifier."""
    for folder, level in (("n02", 20), ("n01", 10), ("n99", 90)):
        (tmp_path / folder).mkdir()
        image = Image.fromarray(np.full((4, 4, 3), level, np.uint8))
        image.save(tmp_path / folder / "a.png")
    names = ("n01 tench", "n02 goldfish")
    decoded = read_test_folder(tmp_path, names, image_size=4)
    np.testing.assert_array_equal(decoded.images[:, 0, 0, 0], [10, 20])
    np.testing.assert_array_equal(decoded.labels, [0, 1])
    in_files = read_test_folder(tmp_path, names, image_size=None)
    assert in_files.names == decoded.files == ("n01/a.png", "n02/a.png")
    with pytest.raises(DataError, match="no images of 1 of the 3 classes, such as 'n03 shark'"):
        read_test_folder(tmp_path, (*names, "n03 shark"), image_size=None)
