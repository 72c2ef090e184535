"""Machinery shared by all runs: state, loops, sharding, checkpoints, writers."""
