"""`python -m jaxrobust.report`, the same as `jaxrobust report`."""

import sys

from jaxrobust.report.command import main

if __name__ == "__main__":
    sys.exit(main())
