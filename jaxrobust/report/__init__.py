"""A page about a run, or about several that are compared: `python -m jaxrobust.report runs/a`.

The page holds everything that it shows, so that it can be mailed: headline numbers, curves with a
band over seeds, what the networks make of the test images, the images that were queried or
suspected, the recipe with what was changed first, the environment and the times. The figures lie
beside it as PNGs. An unfinished run gets a page of what is there.
"""

from jaxrobust.report.command import main as main
from jaxrobust.report.command import write_report as write_report
