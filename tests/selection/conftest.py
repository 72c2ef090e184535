"""Scores are evaluated a few times each: compiling is their cost."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def hardly_optimised(quick_compile):
    """All tests of selection take `quick_compile`."""
