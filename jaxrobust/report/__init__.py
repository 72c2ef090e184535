"""A page about one run, or a comparison of several: `python -m jaxrobust report runs/a`.

The page is one self-contained file: main results, curves with a band over seeds, predictions on the
test images, queried or suspicious images, the recipe (changed fields first), the environment and
the times. The figures are also written as PNGs in its folder. The page of an unfinished run
shows what the run has written so far.
"""

from jaxrobust.report.page import write_report as write_report
