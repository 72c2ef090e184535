"""What a person does at the review desk: many tabs, phones, one image at a time, many at once."""

import csv
import dataclasses
import importlib.util
import io
import pathlib

import numpy as np
import pages
import pytest
from PIL import Image

from jaxrobust.methods.strategy import Query
from jaxrobust.review import review_page, suspects
from jaxrobust.tasks.annotator import Annotator

CLASSES = ["bird", "cat", "dog", "fox", "horse", "frog"]
COUNT = 30


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Photographs of 200 x 120 pixels, the first of which lies on its side."""
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for n in range(COUNT):
        image = Image.fromarray(generator.integers(0, 256, (120, 200, 3), np.uint8))
        exif = Image.Exif()
        if n == 0:
            exif[0x0112] = 6
        image.save(folder / f"{n:02}.jpg", exif=exif)
    return folder


def _judged(**changes):
    """Labels of cats and birds; the first 12 look like dogs and foxes, the last 6 are right."""
    generator = np.random.default_rng(1)
    given = np.where(np.arange(COUNT) % 3 == 0, 0, 1)
    suggested = np.where(np.arange(COUNT) < 12, 2 + (np.arange(COUNT) % 2), given)
    probs = generator.dirichlet(np.ones(len(CLASSES)), COUNT)
    judged = suspects.Judged(
        given=given,
        suggested=suggested,
        clean_prob=np.linspace(0.006, 1, COUNT),
        ranked=np.arange(COUNT),
        class_names=CLASSES,
        probs=probs,
        found={"duplicates": {20: "near duplicate of 03.jpg"}, "outliers": {21: "unlike"}},
    )
    return dataclasses.replace(judged, **changes)


@pytest.fixture(scope="module")
def page_of_review(tmp_path_factory, root):
    path = tmp_path_factory.mktemp("run") / "label_review.html"
    files = [f"{n:02}.jpg" for n in range(COUNT)]
    saved = [("A clean table:", "jaxrobust apply-corrections data corrections.csv")]
    suspects.write_review(path, _judged(), 12, files=files, root=root, after_saving=saved)
    return path


@pytest.fixture(scope="module")
def annotator(tmp_path_factory, root):
    """It asks about six photographs in round 0."""
    files = [f"{n:02}.jpg" for n in range(6)]
    folder = tmp_path_factory.mktemp("queries")
    one = Annotator(folder, root, files, CLASSES, new_classes=("lynx",))
    suggestions = [(CLASSES[n % 4], 0.5 + 0.05 * n) for n in range(6)]
    one.ask(0, Query(np.arange(6), {}), suggestions)
    return one


@pytest.fixture(scope="module")
def page_of_annotation(annotator):
    return annotator.page(0)


def _answers(page):
    return page.locator(".card .answer").all_text_contents()


def _rows(path):
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))


def test_two_tabs_lose_no_answer(browser, page_of_review):
    with pages.opened(browser, page_of_review) as first:
        second = first.context.new_page()
        second.goto(first.url)
        first.bring_to_front()
        for _ in range(5):
            first.keyboard.press("k")
        pages.wait_until(second, "document.querySelector('#count').textContent.startsWith('5 ')")
        second.bring_to_front()
        second.keyboard.press("End")
        second.keyboard.press("a")
        pages.wait_until(first, "document.querySelector('#count').textContent.startsWith('6 ')")
        first.bring_to_front()
        first.keyboard.press("z")  # its own step
        for page in (first, second):
            pages.reload(page)
            assert page.text_content("#count") == "5 of 12 answered"
            assert _answers(page)[4:6] == ["–", "–"] and _answers(page)[11] == "accepted: fox"


def test_a_tab_that_heard_nothing_merges_what_is_stored(browser, page_of_review):
    """As where a browser sends no events, or a page was asleep."""
    with pages.opened(browser, page_of_review) as page:
        page.keyboard.press("k")
        key = pages.embedded_data(page_of_review)["key"]
        other = "[['dog', 'accept', 1e14]].map(([l, d, t]) => [d, l, t, '', 0])[0]"
        page.evaluate(
            f"localStorage.setItem('{key}', JSON.stringify({{...JSON.parse("
            f"localStorage.getItem('{key}')), 5: {other}}}))"
        )
        page.keyboard.press("k")
        pages.reload(page)
        assert page.text_content("#count") == "3 of 12 answered"
        assert _answers(page)[5] == "accepted: dog"


def test_on_a_phone_the_page_opens_at_its_top(browser, page_of_review, page_of_annotation):
    for path in (page_of_review, page_of_annotation):
        with pages.opened(browser, path, size=pages.SIZES[2]) as page:
            assert page.evaluate("window.scrollY") == 0
            assert page.evaluate("document.querySelector('#bar').offsetHeight") <= 130
            heights = "b => b.filter((x) => x.offsetHeight).map((x) => x.offsetHeight)"
            assert min(page.locator("button").evaluate_all(heights)) >= 44
            page.click("#save")
            box = page.locator("#status").bounding_box()
            status = page.text_content("#status")
            assert "0 answers of" in status and box["y"] + box["height"] <= 844
            page.mouse.wheel(0, 600)
            pages.wait_until(page, "scrollY > 100")
            assert page.locator("#bar").bounding_box()["y"] == 0  # stays


def test_the_bar_is_one_line_and_stays(browser, page_of_review, page_of_annotation):
    controls = "#count, #fixed button, #other, #undo, #one, #view, #save, #more"
    for path in (page_of_review, page_of_annotation):
        with pages.opened(browser, path) as page:
            for width, height in pages.SIZES[:2]:
                page.set_viewport_size({"width": width, "height": height})
                page.keyboard.press("End")
                middles = page.locator(controls).evaluate_all(_MIDDLES)
                assert max(middles) - min(middles) < 12 and max(middles) < 220
                assert page.evaluate("document.querySelector('#bar').offsetHeight") < 70


def test_unanswered_images_leave_when_they_are_answered(browser, page_of_review, tmp_path):
    with pages.opened(browser, page_of_review) as page:
        page.keyboard.press("v")
        page.select_option("#state", "unanswered")
        page.keyboard.press("Escape")
        page.keyboard.press("a")
        assert page.locator(".card").count() == 11
        assert page.locator(".card.current .name").text_content() == "01.jpg"
        page.keyboard.press("z")
        assert page.locator(".card").count() == 12
        for _ in range(12):
            page.keyboard.press("a")
        assert page.is_visible("#nothing")
        assert "Nothing is left to answer here. Save corrections.csv now." in page.text_content(
            "#done"
        )
        assert page.text_content("#done code") == "jaxrobust apply-corrections data corrections.csv"
        saved = pages.downloaded(page, "#save", tmp_path)
        assert "corrections.csv has 12 answers" in page.text_content("#status")
        assert {row["decision"] for row in _rows(saved)} == {"accept"}
        page.click("#show_all")
        assert page.locator(".card").count() == 12


@pytest.mark.parametrize("size", pages.SIZES)
def test_one_image_at_a_time(browser, page_of_review, tmp_path, size):
    with pages.opened(browser, page_of_review, size=size) as page:
        page.click("#one")
        pages.wait_until(page, "document.querySelector('#frame img').naturalWidth > 0")
        # Upright, from the file.
        assert page.locator("#frame img").evaluate("i => [i.naturalWidth, i.naturalHeight]") == [
            120, 200
        ]  # fmt: skip
        frame = page.locator("#frame").bounding_box()
        assert frame["height"] > size[1] * 0.45 and frame["y"] + frame["height"] <= size[1]
        texts = page.locator("#facts p").all_text_contents()
        assert texts[1:] == ["given: bird", "suggested: dog", "given label right: 0.6\xa0%"]
        captions = page.locator("#examples figcaption").all_text_contents()
        assert captions == ["bird: labels that look right"]  # no label of a dog looks right
        assert page.locator("#examples img").count() == 3
        pages.assert_accessible(page)
        pages.assert_legible(page)
        for _ in range(3):
            page.keyboard.press("+")
        wide = "e => e.scrollWidth > 2 * e.clientWidth"
        assert page.locator("#frame").evaluate(wide)
        before = page.locator("#frame").evaluate("e => e.scrollLeft")
        x, y = frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x - 60, y)
        page.mouse.up()
        assert page.locator("#frame").evaluate("e => e.scrollLeft") == pytest.approx(before + 60, 1)
        page.keyboard.press("a")  # advances, and fits the next one
        assert page.text_content("#single_place") == "2 of 12"
        assert not page.locator("#frame").evaluate(wide)
        page.keyboard.press("n")
        page.keyboard.type("=blurred, k")
        page.keyboard.press("Escape")
        page.keyboard.press("x")
        page.keyboard.press("ArrowLeft")
        assert page.text_content("#single_answer") == "excluded"
        page.keyboard.press("ArrowRight")
        page.keyboard.press("1")
        page.keyboard.press("z")
        assert page.text_content("#single_place") == "3 of 12"
        page.keyboard.press("Escape")
        assert page.locator(".card").count() == 12
        saved = _rows(pages.downloaded(page, "#save", tmp_path))
        assert [(row["decision"], row["note"]) for row in saved] == [
            ("accept", ""), ("exclude", "'=blurred, k")
        ]  # fmt: skip


def test_keys_choose_the_most_likely_classes_of_this_image(browser, page_of_review):
    judged = _judged()
    with pages.opened(browser, page_of_review) as page:
        for i in range(4):
            likely = [CLASSES[c] for c in np.argsort(-judged.probs[i])]
            known = {CLASSES[judged.given[i]], CLASSES[judged.suggested[i]]}
            others = [name for name in likely if name not in known]
            assert page.locator("#classes button span").all_text_contents() == others
            page.keyboard.press("2")
            assert _answers(page)[i] == f"changed to: {others[1]}"
        colors = "c => c.slice(0, 4).map((x) => getComputedStyle(x).color)"
        assert len(set(page.locator(".card .answer").evaluate_all(colors))) == 1
        page.keyboard.press("k")
        page.keyboard.press("a")
        page.keyboard.press("u")
        page.keyboard.press("x")
        shown = "c => c.slice(3, 8).map((x) => getComputedStyle(x).color)"
        assert len(set(page.locator(".card .answer").evaluate_all(shown))) == 5


def test_many_at_once_by_pair_range_and_all(browser, page_of_review):
    with pages.opened(browser, page_of_review) as page:
        page.keyboard.press("v")
        page.select_option("#pair", label="cat → fox (4)")
        assert page.text_content("#bulk_text") == "4 unanswered of cat → fox:"
        page.click("#accept_all")
        assert _answers(page) == ["accepted: fox"] * 4
        page.keyboard.press("z")  # undone as one
        assert _answers(page) == ["–"] * 4
        page.select_option("#pair", label="all")
        page.keyboard.press("Escape")
        page.keyboard.press("Home")
        for _ in range(3):
            page.keyboard.press("Shift+ArrowRight")
        assert page.text_content("#bulk_text").startswith("4 images selected")
        pages.assert_accessible(page)
        page.keyboard.press("k")
        assert page.text_content("#count") == "4 of 12 answered"
        page.click(".card >> nth=5")
        page.click(".card >> nth=7", modifiers=["Shift"])
        page.click(".card >> nth=9", modifiers=["Control"])
        assert page.locator(".card[aria-selected=true]").count() == 4
        page.keyboard.press("u")
        assert _answers(page)[4:11] == ["–", "unsure", "unsure", "unsure", "–", "unsure", "–"]
        page.keyboard.press("Control+a")
        page.keyboard.press("a")
        assert page.text_content("#count") == "12 of 12 answered"
        for _ in range(3):
            page.keyboard.press("z")
        assert page.text_content("#count") == "0 of 12 answered"


def test_the_page_goes_on_where_one_was(browser, page_of_review):
    with pages.opened(browser, page_of_review, size=pages.SIZES[1]) as page:
        for key in "kak":
            page.keyboard.press(key)
        page.keyboard.press("Enter")
        pages.reload(page)
        assert page.text_content("#single_place") == "4 of 12"
        assert page.text_content("#status") == "3 answers of your last visit are restored."
        page.keyboard.press("z")
        page.keyboard.press("z")
        page.keyboard.press("Escape")
        assert _answers(page)[:3] == ["kept: bird", "–", "–"]


def test_the_random_check_shows_one_image_and_a_bound(browser, page_of_review, tmp_path):
    data = pages.embedded_data(page_of_review)
    order = [data["rows"][i][0] for i in data["random"]]
    assert sorted(order, key=int) == [str(n) for n in range(COUNT)] and data["total"] == COUNT
    with pages.opened(browser, page_of_review) as page:
        page.keyboard.press("a")  # by suspicion: id 0 is not drawn any more
        left = [i for i in order if i != "0"]
        page.click("#tabs >> text=Random check")
        for n in range(12):
            assert page.locator(".card").count() == n + 1  # no choice of what to answer
            page.keyboard.press("u" if n == 4 else "k")
        pages.assert_accessible(page)
        assert page.text_content("#count") == "12 drawn"
        bound = page.text_content("#bound")
        looks = [(True, False), *((n == 4, True) for n in range(12))]
        most = _bound(COUNT, looks)
        assert 0 < most < COUNT - 13
        assert bound.startswith(f"Of the 17 unreviewed labels, at most {most} (")
        saved = _rows(pages.downloaded(page, "#save", tmp_path))
        assert [row["id"] for row in saved] == ["0", *left[:12]]  # in the order of answering
        assert [row["drawn"] for row in saved] == ["0", *["1"] * 12]


def _bound(total, looks):
    """Every number of wrong labels tried in turn, in log space."""
    thetas = np.array([0, 0.1, 0.25, 0.5, 0.8])
    found = sum(is_wrong for is_wrong, _ in looks)
    for wrong in range(found, found + total - len(looks) + 1):
        logs, before, is_excluded = np.zeros(5), 0, False
        for seen, (is_wrong, is_drawn) in enumerate(looks):
            p = (wrong - before) / (total - seen)
            if is_drawn:
                with np.errstate(divide="ignore"):
                    logs += np.log(thetas) if is_wrong else np.log((1 - thetas * p) / (1 - p))
            before += is_wrong
        is_excluded = np.exp(logs).mean() >= 20
        if is_excluded:
            return wrong - 1 - found
    return total - len(looks)


def test_suggestions_are_shown_and_hidden(browser, page_of_annotation):
    with pages.opened(browser, page_of_annotation) as page:
        assert page.locator(".card .suggested").all_text_contents()[:2] == [
            "suggested: bird, 50.0\xa0%", "suggested: cat, 55.0\xa0%"
        ]  # fmt: skip
        assert page.locator("#classes .hinted").all_text_contents() == ["1 bird"]
        page.keyboard.press("a")
        page.click("#view")
        page.uncheck("#suggestions")
        assert page.locator(".card .suggested, .hinted").count() == 0
        page.keyboard.press("Escape")
        page.keyboard.press("a")  # suggests nothing any more
        assert _answers(page)[:2] == ["bird", "–"]
        pages.reload(page)
        assert page.locator(".card .suggested").count() == 0
        pages.assert_accessible(page)


def test_what_was_unknown_is_asked_again_when_a_class_is_added(browser, page_of_annotation):
    with pages.opened(browser, page_of_annotation) as page:
        for key in "u1u":
            page.keyboard.press(key)
        page.keyboard.press("o")
        page.fill("#find", "lynx")
        page.click("#new")
        assert page.text_content("#again") == "Look again at the 2 images answered unknown"
        page.click("#again")
        assert page.locator(".card .name").all_text_contents() == ["00.jpg", "02.jpg"]
        page.keyboard.press("7")
        assert page.locator(".card").count() == 1
        page.keyboard.press("v")
        page.select_option("#state", "all")
        assert _answers(page)[:4] == ["lynx", "bird", "unknown", "lynx"]


@pytest.mark.parametrize("size", pages.SIZES)
def test_a_session_at_every_size(browser, page_of_review, page_of_annotation, annotator, size):
    """By clicks alone: what every screen must allow, and what axe says of each state."""
    lines = 1 if size[0] > 1000 else 2
    with pages.opened(browser, page_of_review, size=size) as page:
        second = page.context.new_page()
        second.goto(page.url)
        page.bring_to_front()
        assert page.evaluate("window.scrollY") == 0
        tools = "#count, #fixed button, #other, #undo, #one, #view, #save, #more"
        middles = page.locator(tools).evaluate_all(_MIDDLES)
        rows = sum(b - a > 12 for a, b in zip(sorted(middles), sorted(middles)[1:], strict=False))
        assert rows + 1 <= lines
        hidden = page.locator("#answers").evaluate("e => e.scrollWidth - e.clientWidth")
        assert hidden == 0 or lines == 2  # four further classes have room on a screen
        page.click("#fixed >> text=Keep")
        pages.wait_until(second, "document.querySelector('#count').textContent[0] === '1'")
        second.click(".card >> nth=11")
        second.click("#fixed >> text=Accept")
        second.close()
        pages.wait_until(page, "document.querySelector('#count').textContent[0] === '2'")
        # By score, larger, and what else was found.
        page.click("#view")
        page.locator("#limit").fill("20")
        assert page.locator(".card").count() == sum(_judged().clean_prob[:12] <= 0.2)
        page.locator("#limit").fill("100")
        width = "e => e.offsetWidth"
        before = page.locator(".card >> nth=0").evaluate(width)
        page.locator("#size").fill("20")
        assert page.locator(".card >> nth=0").evaluate(width) > 1.5 * before
        page.locator("#size").fill("10")
        page.click("#view")
        page.click("#tabs >> text=Duplicates (1)")
        assert page.locator(".card .finding").all_text_contents() == ["near duplicate of 03.jpg"]
        page.click("#fixed >> text=Exclude")
        page.click("#tabs >> text=Outliers (1)")
        assert _answers(page) == ["–"]
        page.click("#fixed >> text=Keep")
        page.click("#tabs >> text=Labels (12)")
        assert page.text_content("#count") == "2 of 12 answered"
        # What is unanswered, by pair, all at once, and back as one.
        page.click("#view")
        page.select_option("#state", "unanswered")
        page.select_option("#pair", label="cat → fox (4)")
        pages.assert_accessible(page)
        before = page.locator(".card").count()
        page.click("#accept_all")
        assert page.is_visible("#nothing") and before == 3
        page.click("#undo")
        assert page.locator(".card").count() == before
        page.click("#accept_all")
        page.click("#show_all")
        page.click("#view")
        # One at a time, from where the answers end; the next visit begins there.
        page.click("#one")
        for _ in range(3):
            page.click("#zoom_in")
        assert page.locator("#frame").evaluate("e => e.scrollWidth > 2 * e.clientWidth")
        for name in ("Accept", "Unsure", "Exclude"):
            page.click(f"#fixed >> text={name}")
        page.click("#more")
        pages.assert_accessible(page)
        pages.assert_legible(page)
        page.click("#help")
        assert "accept the suggested label" in page.inner_text("#keys")
        pages.assert_accessible(page, "#keys")
        page.click("#close_keys")
        page.click("#more")
        page.wait_for_timeout(350)
        place = page.text_content("#single_place")
        pages.reload(page)
        assert page.text_content("#single_place") == place
        page.click("#grid_again")
        assert page.text_content("#count") == "6 of 12 answered"
        page.click("#view")
        page.click("#select_all")
        page.click("#fixed >> text=Keep")
        assert "Nothing is left to answer here. Save" in page.text_content("#done")
    with pages.opened(browser, page_of_annotation, size=size) as page:
        assert page.locator(".hinted").count() == 1
        page.click("#view")
        page.uncheck("#suggestions")
        assert page.locator(".hinted, .card .suggested").count() == 0
        page.click("#view")
        page.click("#fixed >> text=unknown")
        page.click("#other")
        page.fill("#find", "lynx")
        page.click("#new")
        page.click("#again")
        assert page.locator(".card .name").all_text_contents() == ["00.jpg"]
        pages.assert_accessible(page)
        pages.downloaded(page, "#save", annotator.folder)
    annotator.show_answers(0, Query(np.arange(6), {}), annotator.answers(0))
    with Image.open(annotator.sheet(0)) as sheet:
        captions = np.asarray(sheet.convert("RGB"), int)[-28:].reshape(28, 6, 100, 3)
    redder = (captions[..., 0] - captions[..., 1]).sum((0, 2))
    assert redder[0] > 0 > redder[1:].max()  # unknown is orange, lynx green


_MIDDLES = "b => b.map((x) => x.getBoundingClientRect()).map((r) => r.top + r.height / 2)"


def test_a_hundred_decisions_by_keys_are_fast(browser, tmp_path):
    path = tmp_path / "label_review.html"
    rows = [review_page.Suspect(n, "", "cat", "dog", 0.5) for n in range(5316)]
    review_page.write(path, rows, CLASSES, pictures=np.zeros((500, 8, 8, 3), np.uint8))
    with pages.opened(browser, path) as page:
        milliseconds = page.evaluate(
            """() => {
              const start = performance.now();
              for (let n = 0; n < 100; n++) document.activeElement.dispatchEvent(
                new KeyboardEvent("keydown", { key: "a", bubbles: true }));
              document.body.offsetHeight;
              return (performance.now() - start) / 100;
            }"""
        )
        assert page.text_content("#count") == "100 of 5316 answered"
        assert milliseconds < 100  # 10 to 20 on an idle machine
        print(f"{milliseconds:.1f} ms a key")


def test_the_screenshots_of_the_documentation_are_made(browser, page_of_review, tmp_path):
    path = pathlib.Path(__file__).parents[2] / "docs" / "screenshots.py"
    spec = importlib.util.spec_from_file_location("screenshots", path)
    screenshots = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(screenshots)
    written = screenshots.write(page_of_review, tmp_path, "aaaka", browser)
    committed = path.parent / "figures"
    for image in written:
        with Image.open(image) as new, Image.open(committed / image.name) as old:
            assert new.size == old.size == screenshots.SIZE
