"""The pages on which a person annotates and reviews, used in a browser as the person does."""

import csv
import io

import numpy as np
import pages
from PIL import Image

from jaxrobust.data.tables import escape_formula
from jaxrobust.review import annotation_page, answer_page, review_page

EVIL = "</script><script>document.title='evil'</script>"
CLASSES = ["cat", "dog", '=cmd|" /C calc"', EVIL, "owl, barn", "'quoted", "Füchsin 猫"]
FILES = ["a.png", '=b,"<img src=x onerror=x()>.png', "sub folder/c#1.png", "d.png", "e.png"]
EMPTY = ("",) * len(FILES)


def _data_set(root):
    for n, name in enumerate(FILES):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30 + 10 * n, 40), (40 * n, 90, 60)).save(root / name)
    return root


def _table(labels=EMPTY):
    rows = [
        [str(10 + n), escape_formula(file), label, "-0.5"]
        for n, (file, label) in enumerate(zip(FILES, labels, strict=True))
    ]
    return [["id", "file", "label", "score"], *rows]


def _annotation(tmp_path, labels=EMPTY):
    path = tmp_path / "run" / "queries" / "round_00.html"
    annotation_page.write(path, _table(labels), CLASSES, root=_data_set(tmp_path / "data"))
    return path


def _review(tmp_path):
    path = tmp_path / "run" / "label_review.html"
    given, suggested = ("cat", "dog", "cat", EVIL, "dog"), ("dog", "cat", "dog", "=x", "owl, barn")
    suspects = [
        review_page.Suspect(10 + n, file, given[n], suggested[n], 0.1 * n)
        for n, file in enumerate(FILES)
    ]
    review_page.write(path, suspects, [*CLASSES, "=x"], root=_data_set(tmp_path / "data"))
    return path


def _read(path):
    content = path.read_bytes()
    assert content.startswith(b"\xef\xbb\xbf")
    return list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))


def _answers(page):
    return page.locator(".card .answer").all_text_contents()


def test_annotating_with_buttons_and_keys(browser, tmp_path):
    with pages.opened(browser, _annotation(tmp_path)) as page:
        assert page.text_content("#count") == "0 of 5 answered"
        page.keyboard.press("1")  # the first image has the focus
        page.keyboard.press("U")
        page.get_by_role("button", name="owl, barn").click()
        page.keyboard.press("s")
        assert _answers(page) == ["cat", "unknown", "owl, barn", "skip", "–"]
        page.keyboard.press("z")
        assert _answers(page)[3:] == ["–", "–"]
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("4")
        page.click(".card >> nth=3")
        page.keyboard.press("3")
        assert page.text_content("#count") == "4 of 5 answered"
        assert page.locator(".card[aria-selected=true]").get_attribute("id") == "card4"
        saved = pages.downloaded(page, "#save", tmp_path)
    assert saved.name == "round_00.csv"
    labels = ["cat", EVIL, "owl, barn", "'" + CLASSES[2], ""]
    assert _read(saved) == _table(labels)
    # Byte for byte what the table's own writer makes of it.
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(_table(labels))
    assert saved.read_text("utf-8-sig") == text.getvalue()


def test_arrows_move_by_rows_and_the_image_opens_larger(browser, tmp_path):
    with pages.opened(browser, _annotation(tmp_path), size=pages.SIZES[2]) as page:
        selected = page.locator(".card[aria-selected=true]")
        for key, place in (("ArrowDown", 2), ("ArrowRight", 3), ("ArrowUp", 1), ("End", 4)):
            page.keyboard.press(key)
            assert selected.get_attribute("id") == f"card{place}"
        assert page.evaluate("document.activeElement.id") == "card4"
        page.keyboard.press("Enter")
        image = page.locator("#frame img")
        pages.wait_until(page, "document.querySelector('#frame img').naturalWidth > 0")
        assert image.evaluate("i => [i.naturalWidth, i.src.startsWith('file:')]") == [70, True]
        page.keyboard.press("Escape")
        page.keyboard.press("1")
        assert _answers(page)[4] == "cat"


def test_the_browser_keeps_the_answers(browser, tmp_path):
    path, other = _annotation(tmp_path), _annotation(tmp_path / "other")
    with pages.opened(browser, path) as page:
        page.keyboard.press("2")
        pages.reload(page)
        assert page.text_content("#status") == "1 answer of your last visit is restored."
        assert _answers(page)[0] == "dog"
        page.goto(other.as_uri())
        assert _answers(page) == ["–"] * 5
        page.goto(path.as_uri())
        page.once("dialog", lambda dialog: dialog.accept())
        page.click("#more")
        page.click("#restart")
        pages.reload(page)
        assert _answers(page) == ["–"] * 5


def test_filters_and_classes_by_name(browser, tmp_path):
    with pages.opened(browser, _annotation(tmp_path, ("dog", "", "", "unknown", ""))) as page:
        page.click("#view")
        page.select_option("#state", label="unanswered")
        assert page.locator(".card .name").all_text_contents() == [
            "=b,\"<img src=x onerror=x()>.png", "c#1.png", "e.png"
        ]  # fmt: skip
        page.keyboard.press("Tab")
        page.select_option("#state", label="class dog")
        assert page.locator(".card .name").all_text_contents() == ["a.png"]
        page.select_option("#state", label="all")
        page.click(".card >> nth=1")
        page.keyboard.press("o")
        page.keyboard.type("OWL")
        assert page.locator("#found button").all_text_contents() == ["owl, barn"]
        page.keyboard.press("Enter")
        page.click(".card >> nth=2")
        page.keyboard.press("o")
        page.fill("#find", "lynx")
        page.click("#new")
        page.keyboard.press("8")  # the new class has a key from now on
        assert _answers(page) == ["dog", "owl, barn", "lynx", "lynx", "–"]
        saved = _read(pages.downloaded(page, "#save", tmp_path))
        assert [row[2] for row in saved[1:]] == ["dog", "owl, barn", "lynx", "lynx", ""]


def test_a_saved_table_is_loaded_again(browser, tmp_path):
    """Also as a spreadsheet writes it: other separators, other line ends, columns moved."""
    labels = ["'" + CLASSES[2], "skip", '"owl, barn"', "", "newt"]
    lines = [f"{label};{10 + n}" for n, label in enumerate(labels)]
    table = tmp_path / "t.csv"
    table.write_bytes("\r\n".join(["label;id", *lines, "cat;99"]).encode("utf-8-sig"))
    with pages.opened(browser, _annotation(tmp_path)) as page:
        page.set_input_files("#load", table)
        pages.wait_until(page, "document.querySelector('#status').textContent.includes('t.csv')")
        assert page.text_content("#status") == (
            "4 answers read from t.csv. Left out, because no image or class fits: line 7."
        )
        assert _answers(page) == [CLASSES[2], "skip", "owl, barn", "–", "newt"]
        table.write_text("file,name\n")
        page.set_input_files("#load", table)
        pages.wait_until(page, "document.querySelector('#status').textContent.includes('column')")
        assert "has no column id, label" in page.text_content("#status")


def test_reviewing(browser, tmp_path):
    path = _review(tmp_path)
    with pages.opened(browser, path) as page:
        for key in "kau":
            page.keyboard.press(key)
        page.click("#other")
        page.get_by_role("button", name="Füchsin").last.click()
        page.keyboard.press("o")
        page.fill("#find", "owl")  # the class that is suggested
        page.keyboard.press("Enter")
        assert _answers(page) == [
            "kept: cat", "accepted: cat", "unsure", "changed to: Füchsin 猫", "accepted: owl, barn"
        ]  # fmt: skip
        page.keyboard.press("z")
        pages.reload(page)
        assert page.text_content("#count") == "4 of 5 answered"
        saved = pages.downloaded(page, "#save", tmp_path)
        assert saved.name == "corrections.csv"
        assert _read(saved) == [
            ["id", "file", "given_label", "label", "decision", "drawn", "note"],
            ["10", "a.png", "cat", "cat", "keep", "0", ""],
            ["11", escape_formula(FILES[1]), "dog", "cat", "accept", "0", ""],
            ["12", FILES[2], "cat", "", "unsure", "0", ""],
            ["13", "d.png", EVIL, CLASSES[-1], "other", "0", ""],
        ]
        page.once("dialog", lambda dialog: dialog.accept())
        page.click("#more")
        page.click("#restart")
        page.set_input_files("#load", saved)
        pages.wait_until(page, "document.querySelector('#count').textContent.startsWith('4')")
        assert _answers(page)[3] == "changed to: Füchsin 猫"


def test_reviewing_by_class_and_pair(browser, tmp_path):
    with pages.opened(browser, _review(tmp_path)) as page:
        names = page.locator(".card .name")
        page.keyboard.press("v")
        page.select_option("#given", label="dog (2)")
        assert names.all_text_contents() == [FILES[1], "e.png"]
        page.select_option("#given", label="all")
        page.select_option("#pair", label="cat → dog (2)")
        assert names.all_text_contents() == ["a.png", "c#1.png"]
        page.select_option("#pair", label="all")
        page.select_option("#order", label="class")
        given = page.locator(".card .given").all_text_contents()
        assert given == [f"given: {name}" for name in (EVIL, "cat", "cat", "dog", "dog")]
        page.select_option("#order", label="file")
        page.keyboard.press("Tab")
        assert names.all_text_contents()[1:] == ["a.png", "d.png", "e.png", "c#1.png"]


def test_what_is_not_embedded_comes_from_the_folder(browser, tmp_path, monkeypatch):
    monkeypatch.setattr(answer_page, "NUM_EMBEDDED", 2)
    path = _review(tmp_path)
    assert path.read_text().count("data:image/jpeg") == 2
    with pages.opened(browser, path) as page:
        assert "first 2 images are embedded in this page; the other 3" in page.text_content(
            "header"
        )
        assert page.input_value("#folder") == "../data"
        widths = "() => [...document.querySelectorAll('.card img')].map((i) => i.naturalWidth)"
        pages.wait_until(page, f"({widths})().every(Boolean)")
        assert page.evaluate(widths) == [30, 40, 50, 60, 70]


def test_pages_of_a_hundred_and_pictures_of_arrays(browser, tmp_path):
    path = tmp_path / "label_review.html"
    suspects = [review_page.Suspect(n, "", "cat", "dog", 0.5) for n in range(120)]
    review_page.write(path, suspects, CLASSES, pictures=np.zeros((110, 8, 8, 3), np.uint8))
    with pages.opened(browser, path) as page:
        assert page.text_content("#place") == "1 to 100 of 120"
        assert page.locator(".card img.small").count() == 100
        page.keyboard.press("PageDown")
        page.keyboard.press("a")
        assert page.text_content("#place") == "101 to 120 of 120"
        assert page.locator(".card img").count() == 10
        page.click("#previous")
        assert page.is_disabled("#previous") and page.locator(".card").count() == 100
        saved = _read(pages.downloaded(page, "#save", tmp_path))
        assert saved[1:] == [["100", "", "cat", "dog", "accept", "0", ""]]


def test_pages_are_legible_and_run_nothing_else(browser, tmp_path):
    """Whatever the names; what axe says of light pages at every size is in test_review_desk.py."""
    for path in (_annotation(tmp_path), _review(tmp_path)):
        with pages.opened(browser, path, color_scheme="dark") as page:
            page.keyboard.press("1")
            pages.assert_accessible(page)
            for width, height in (pages.SIZES[0], pages.SIZES[2]):
                page.set_viewport_size({"width": width, "height": height})
                for keys in ((), ("v",), ("Escape", "Enter")):
                    for key in keys:
                        page.keyboard.press(key)
                    for scheme in ("light", "dark"):
                        page.emulate_media(color_scheme=scheme)
                        pages.assert_legible(page)
                page.keyboard.press("Escape")
            assert page.title() in ("Which class does each image show?", "Labels that look wrong")
            assert page.locator("script").count() == 2


def test_an_image_that_cannot_be_decoded_is_named(tmp_path):
    root = _data_set(tmp_path / "data")
    (root / "a.png").write_bytes(b"nothing")
    annotation_page.write(tmp_path / "round_01.html", _table(), CLASSES, root=root)
    page = (tmp_path / "round_01.html").read_text()
    assert page.count("data:image/jpeg") == 4 and '"pictures":[null,' in page


def test_a_review_of_texts_shows_them(browser, tmp_path):
    texts = ["the first text", EVIL, "a third one"]
    rows = [
        review_page.Suspect(n, "", "cat", "dog", 0.1 * n, tabs=("labels", "random"))
        for n in range(3)
    ]
    path = tmp_path / "label_review.html"
    check = review_page.Check(30, [2, 0, 1])
    examples = {"cat": ["a right one"]}
    review_page.write(path, rows, CLASSES, texts=texts, examples=examples, check=check)
    with pages.opened(browser, path) as page:
        assert page.locator(".card .words").all_text_contents() == texts
        assert page.locator(".card .name").all_text_contents() == ["text 0", "text 1", "text 2"]
        assert "image" not in page.locator("main").inner_text().lower()
        page.keyboard.press("a")
        page.keyboard.press("Enter")
        assert page.text_content("#frame .words") == EVIL
        assert page.text_content("#examples blockquote") == "a right one"
        saved = pages.downloaded(page, "#save", tmp_path)
    assert _read(saved)[1][:5] == ["0", "", "cat", "dog", "accept"]
