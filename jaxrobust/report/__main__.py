"""`python -m jaxrobust.report`, the same as `jaxrobust report`."""

import sys

from jaxrobust.recipes.registry import resolve

if __name__ == "__main__":
    sys.exit(resolve("jaxrobust.commands.cli:main")(["report", *sys.argv[1:]]))
