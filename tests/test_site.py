"""The site as it was built: what axe-core says of its pages, and whether they fit a phone."""

import functools
import http.server
import pathlib
import threading

import pages
import pytest

SITE = pathlib.Path(__file__).parents[1] / "site"
LOOKED_AT = ("", "review_photographs/", "api/losses/")

pytestmark = pytest.mark.skipif(
    not (SITE / "index.html").exists(), reason="python -m zensical build --strict --clean"
)


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Nothing."""


@pytest.fixture(scope="module")
def address():
    handler = functools.partial(_Silent, directory=str(SITE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@pytest.mark.parametrize("path", LOOKED_AT)
def test_pages_are_accessible_in_both_schemes(browser, address, path):
    for size in (pages.SIZES[0], pages.SIZES[2]):
        for scheme in ("light", "dark"):
            with pages.opened(browser, address + path, size=size, color_scheme=scheme) as page:
                # The palette that the person's system asks for.
                shown = page.evaluate("document.body.dataset.mdColorScheme")
                assert shown == {"light": "default", "dark": "slate"}[scheme]
                pages.assert_accessible(page)


def test_no_page_is_wider_than_a_phone(browser, address):
    wide = {}
    with pages.opened(browser, address, size=pages.SIZES[2]) as page:
        for path in sorted(SITE.rglob("index.html")):
            page.goto(address + path.parent.relative_to(SITE).as_posix() + "/")
            over = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            if over > 0:
                wide[path.parent.name] = over
    assert wide == {}
