"""The page of what was checked against the authors names tests that there are."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "audit.md").read_text()


def test_every_test_that_the_page_names_exists():
    named = re.findall(r"`(tests/\S+\.py)::(\w+)`", PAGE)
    assert len(named) > 20
    for path, name in named:
        assert f"\ndef {name}(" in (ROOT / path).read_text(), (path, name)


def test_every_file_of_recorded_numbers_has_an_origin():
    files = {path.name for path in (ROOT / "tests" / "golden").glob("*.npz")}
    assert files == set(re.findall(r"^\| `(\w+\.npz)` \|", PAGE, re.M))
