"""One file per command of `jaxrobust`, and the parser that they share."""
