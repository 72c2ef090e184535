"""Opening a page in a browser as a person does, and what every page must keep to."""

import contextlib
import functools
import json
import pathlib
import time

import pytest

_CONTRASTS = """() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255)
      .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const [r, g, b, a = 1] = channels(getComputedStyle(node).backgroundColor);
      if (a === 1) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const low = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!own || !node.getClientRects().length || node.disabled) continue;
    const text = luminance(channels(getComputedStyle(node).color).slice(0, 3));
    const back = luminance(behind(node));
    const contrast = (Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05);
    if (contrast < 4.5) low.push([node.tagName, node.textContent.slice(0, 40), contrast]);
  }
  return low;
}"""


SIZES = ((1400, 900), (1366, 650), (390, 844))
"""Windows in which every page is looked at: two screens and a phone."""


def reload(page) -> None:
    """Loads a page again once all is stored, as a person does: a place is after 300 ms."""
    page.wait_for_timeout(350)
    page.reload()


@contextlib.contextmanager
def opened(
    browser,
    path: pathlib.Path | str,
    *,
    size: tuple[int, int] = SIZES[0],
    color_scheme: str = "light",
):
    """The page; errors of its scripts and dialogs that nobody asked for fail the test."""
    width, height = size
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=color_scheme,
        accept_downloads=True,
    )
    page = context.new_page()
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.goto(path if isinstance(path, str) else path.resolve().as_uri())
    try:
        yield page
        assert complaints == []
    finally:
        context.close()


def embedded_data(path: pathlib.Path) -> dict:
    """What a page of answers hands to its script."""
    _, _, rest = path.read_text(encoding="utf-8").partition('id="data">')
    return json.loads(rest.partition("</script>")[0])


def downloaded(page, selector: str, folder: pathlib.Path) -> pathlib.Path:
    """The file that a click gives."""
    with page.expect_download() as download:
        page.click(selector)
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def wait_until(page, condition: str, seconds: float = 10.0) -> None:
    """Asks from outside: what a page waits for itself, its policy against `eval` refuses."""
    end = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < end, f"not within {seconds:g} s: {condition}"
        page.wait_for_timeout(20)


@functools.cache
def _axe() -> str:
    """The script of axe-core, which knows the rules of WCAG 2."""
    package = pytest.importorskip("axe_playwright_python", reason="pip install '.[test]'")
    return (pathlib.Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8")


def assert_accessible(page, within: str = "html") -> None:
    """axe-core finds nothing to complain about."""
    if not page.evaluate("typeof axe === 'object'"):
        page.evaluate(_axe())
    complaints = "v => [v.id, v.nodes.map(n => n.html.slice(0, 120) + n.failureSummary)]"
    run = f"axe.run({within!r}, {{resultTypes: ['violations']}})"
    found = page.evaluate(f"async () => (await {run}).violations.map({complaints})")
    assert found == [], found


def assert_legible(page) -> None:
    """Nothing is wider than the window, and text has a contrast of 4.5 at least."""
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    low = page.evaluate(_CONTRASTS)
    assert low == [], low
