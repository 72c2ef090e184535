"""Programs run a few times each: compiling is their cost."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def hardly_optimised(quick_compile):
    """All tests of methods take `quick_compile`."""
