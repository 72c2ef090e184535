import numpy as np
import pytest
from PIL import Image

from jaxrobust.report import figure_text, figures


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
    orange, green = (
        [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        for color in (figures._DARK_ORANGE, figures._DARK_GREEN)
    )
    assert (left == orange).all(axis=1).any()
    assert not (right == orange).all(axis=2).any()
    for color in (orange, green):  # contrast with white as WCAG 2 has it
        levels = np.array(color) / 255
        linear = np.where(levels <= 0.03928, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
        assert 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05) >= 4.5


def test_a_confusion_matrix_names_few_classes_and_draws_many(tmp_path):
    """A name is text, not a formula, and a class without images is an empty row."""
    few = np.array([[3, 1], [0, 0]])
    figures.confusion_matrix(few, [r"$\frac{$", "_x"], tmp_path / "few.png", title="few")
    many = np.eye(100, dtype=int)
    figures.confusion_matrix(many, [""] * 100, tmp_path / "many.png", title="many")
    for name in ("few", "many"):
        with Image.open(tmp_path / f"{name}.png") as image:
            assert min(image.size) > 400


def test_long_names_keep_their_start_and_their_end():
    name = "great crested grebe, Podiceps cristatus, in winter plumage (juvenile)"
    assert figure_text.short_name(name) == "great crested g…uvenile)"
    assert figure_text.short_name("a" * 24) == "a" * 24


@pytest.mark.parametrize("num_fonts", [1, 2])
def test_names_in_any_script_are_drawn_without_a_warning(tmp_path, monkeypatch, num_fonts):
    """In a font that has them where one is installed, else by their code points."""
    fonts = figure_text.fonts()[:num_fonts]
    if len(fonts) < num_fonts:
        pytest.skip("no font with Chinese characters is installed")
    monkeypatch.setattr(figure_text, "fonts", lambda: fonts)
    monkeypatch.setattr(figures, "fonts", lambda: fonts)
    names = ["猫", "Füchsin", "\N{FOX FACE}"]
    shown = [figure_text.short_name(name) for name in names]
    assert shown == [("\\u732b", "猫")[num_fonts - 1], "Füchsin", "\\U0001f98a"]
    assert figure_text.font_of("猫\ncat") == (fonts[-1].path, f"{shown[0]}\ncat")
    counts = np.eye(3, dtype=int)
    figures.confusion_matrix(counts, names, tmp_path / "a.png", title="猫 \N{FOX FACE}")
    figures.class_bars(np.array([0.1, 0.5, 0.9]), names, tmp_path / "b.png", title="title")
    figures.contact_sheet(np.zeros((3, 8, 8, 3), np.uint8), names, tmp_path / "c.png")


def _drawn(monkeypatch, draw, *args, **options):
    """The figure before it is saved."""
    kept = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: kept.append(figure))
    draw(*args, path=None, **options)
    kept[0].canvas.draw()
    return kept[0]


def test_nothing_is_cut_whatever_classes_are_called(monkeypatch):
    names = ["cat", "great crested grebe in winter", "x" * 70]
    title = "Test images, % of each true class"
    drawn = [
        _drawn(monkeypatch, figures.confusion_matrix, np.eye(3), names, title=title),
        _drawn(monkeypatch, figures.class_bars, np.ones(3), names, title=title * 3),
    ]
    for figure in drawn:
        texts = [figure._suptitle]
        for axis in figure.axes:
            texts += [*axis.get_yticklabels(), *axis.get_xticklabels(), axis.xaxis.label]
        for text in filter(lambda text: text.get_text(), texts):
            box = text.get_window_extent()
            assert box.x0 >= -1 and box.x1 <= figure.bbox.width + 1, text.get_text()
            assert box.y0 >= -1 and box.y1 <= figure.bbox.height + 1, text.get_text()
        figures._pyplot().close(figure)


def test_a_reliability_diagram_counts_its_bins_and_hides_none(monkeypatch):
    count = np.array([0, 2, 9, 10, 12_345])
    bins = {"count": count, "accuracy": np.full(5, 1.0), "confidence": np.full(5, 0.9)}
    figure = _drawn(monkeypatch, figures.reliability_diagram, bins)
    top, bottom = figure.axes
    assert figure._suptitle.get_text() == "Calibration on the test images, error 10.0 %"
    assert [text.get_text() for text in bottom.texts] == ["2", "9", "10", "12k"]
    colors = {round(bar.get_x()): bar.get_facecolor() for bar in top.patches}
    assert colors[20] == colors[40] != colors[60] == colors[80]
    (legend,) = figure.legends
    names = {text.get_text() for text in legend.get_texts()}
    assert names == {"accuracy", "of fewer than 10 predictions", "calibrated"}
    assert not legend.get_window_extent().overlaps(top.get_window_extent())
    figures._pyplot().close(figure)


def test_people_count_epochs_from_one(monkeypatch):
    epochs = [{"epoch": n, "accuracy": 0.5, "ece": 0.1, "diagnosis": {}} for n in range(3)]
    results = {
        "dataset": "digits", "student": {"name": "a"}, "teacher": None, "seed": 0,
        "epochs": epochs, "last": epochs[-1],
    }  # fmt: skip
    figure = _drawn(monkeypatch, figures.distillation_curves, {"dhkd": [results]})
    assert figure.axes[0].lines[0].get_xdata().tolist() == [1, 2, 3]
    figures._pyplot().close(figure)
