"""demotune: learn the reward behind demonstrations, and a better policy with it."""

__version__ = "0.1.0"
