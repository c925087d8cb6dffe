"""The methods, one a file: its phases and its objective; and the registry of them."""

from demotune.training.methods.method import Method, Phase
from demotune.training.methods.registry import METHODS, method_of, register

__all__ = ["METHODS", "Method", "Phase", "method_of", "register"]
