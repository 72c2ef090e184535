"""What every run needs and no method owns: state, loops, sharding, checkpoints, writers."""
