"""Screenshots of the review page for README: `python docs/screenshots.py RUN FOLDER KEYS`.

RUN is the workdir of a run on photographs, FOLDER docs/figures, KEYS the answers to its first
photographs. The tests run it on a small page.
"""

import pathlib
import shutil
import sys

SIZE = (1200, 720)


def write(page: pathlib.Path, folder: pathlib.Path, keys: str, browser) -> list[pathlib.Path]:
    """Writes `review_page.png` and `review_one.png`, each after some answers.

    Args:
      page: `label_review.html`.
      folder: for the images.
      keys: to press, one for each photograph.
      browser: of Playwright.
    """
    paths = [folder / "review_page.png", folder / "review_one.png"]
    context = browser.new_context(viewport=dict(zip(("width", "height"), SIZE, strict=True)))
    shown = context.new_page()
    shown.goto(page.resolve().as_uri())
    for key in keys:
        shown.keyboard.press(key)
    shown.wait_for_timeout(300)
    shown.screenshot(path=paths[0])
    shown.keyboard.press("Enter")
    shown.wait_for_timeout(500)
    shown.screenshot(path=paths[1])
    context.close()
    return paths


def _shrink(path: pathlib.Path) -> None:
    """256 colours, of which nobody sees the difference."""
    from PIL import Image

    with Image.open(path) as image:
        small = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


def main(run: str, folder: str, keys: str) -> None:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = pathlib.Path(run) / "label_review.html"
        for path in write(page, pathlib.Path(folder), keys, browser):
            _shrink(path)
            print(path)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
