import numpy as np
import pytest
from PIL import Image

from jaxrobust import figures
from jaxrobust.figures import COLORS


@pytest.mark.parametrize(("side", "drawn"), [(20, 80), (96, 96), (200, 96)])
def test_a_contact_sheet_is_near_square_and_its_images_are_of_one_size(tmp_path, side, drawn):
    images = np.full((30, side, side, 3), 200, np.uint8)
    figures.contact_sheet(images, ["a caption that is far too long"] * 30, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (8 * 100, 4 * (drawn + 18))
        pixels = np.asarray(sheet)
    assert (pixels == 200).all(axis=2).sum() >= 30 * drawn * drawn
    assert [p.name for p in tmp_path.iterdir()] == ["sheet.png"]


def test_learning_curves_leave_out_what_nobody_knows(tmp_path):
    rounds = [
        {"round": n, "accuracy": 0.5, "num_labeled_known": 4, "num_labeled_unknown": 2}
        for n in (0, 1)
    ]
    widths = []
    for query in ({}, {"precision": 0.5}, {"precision": 0.5, "recall": 0.1}):
        rounds[0]["query"] = {"size": 3, **query}
        results = {"dataset": "mine", "num_known_classes": 2, "num_classes": 3, "seed": 0}
        figures.learning_curves({"bual": [{**results, "rounds": rounds}]}, tmp_path / "curves.png")
        with Image.open(tmp_path / "curves.png") as image:
            widths.append(image.width)
    assert widths[1] == pytest.approx(2 * widths[0], abs=2)
    assert widths[2] == pytest.approx(3 * widths[0], abs=2)


def test_captions_are_of_several_lines_and_coloured_by_what_is_wrong(tmp_path):
    images = np.zeros((2, 12, 24, 3), np.uint8)
    captions = ["größer\n→ 猫", "cat\n→ dog"]
    figures.contact_sheet(images, captions, tmp_path / "sheet.png", wrong=np.array([True, False]))
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (2 * 100, 48 + 4 + 2 * 14)
        left, right = np.asarray(sheet)[:, :100].reshape(-1, 3), np.asarray(sheet)[:, 100:]
    orange = [int(COLORS[1][i : i + 2], 16) for i in (1, 3, 5)]
    assert (left == orange).all(axis=1).any()
    assert not (right == orange).all(axis=2).any()


def test_a_confusion_matrix_names_few_classes_and_draws_many(tmp_path):
    """A name is text, not a formula, and a class without images is an empty row."""
    few = np.array([[3, 1], [0, 0]])
    figures.confusion_matrix(few, [r"$\frac{$", "_x"], tmp_path / "few.png", title="few")
    many = np.eye(100, dtype=int)
    figures.confusion_matrix(many, [""] * 100, tmp_path / "many.png", title="many")
    for name in ("few", "many"):
        with Image.open(tmp_path / f"{name}.png") as image:
            assert min(image.size) > 400
