"""The calls on arrays and folders, which `jaxrobust` exports."""
