"""Pure per-example losses. Importing this package loads JAX and nothing heavier."""
