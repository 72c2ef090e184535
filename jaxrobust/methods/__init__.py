"""One file per paper: losses, selection and networks wired into what a task runs.

Their options, and the registries that name them, are in `jaxrobust.recipes`.
"""
