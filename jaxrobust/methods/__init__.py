"""One file per paper, which combines losses, selection and networks into a method of a task.

Their options and registries are in `jaxrobust.recipes`.
"""
