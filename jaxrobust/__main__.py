"""`python -m jaxrobust`, the same as the command `jaxrobust`."""

import sys

from jaxrobust.commands.cli import main

if __name__ == "__main__":
    sys.exit(main())
