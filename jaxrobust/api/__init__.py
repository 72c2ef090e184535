"""The functions on arrays and folders that `jaxrobust` exports."""
