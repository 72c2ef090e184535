"""One file per command of `jaxrobust`, and the shared argument parser."""
