"""Learning when the supervision cannot be trusted, in JAX/Flax."""

__version__ = "0.1.0"
