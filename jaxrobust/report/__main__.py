"""Runs the command of the package."""

import sys

from jaxrobust.report.command import main

if __name__ == "__main__":
    sys.exit(main())
