"""Deep-learning research on JAX: each technique a config line over one sharded train step."""

__version__ = "0.1.0"
