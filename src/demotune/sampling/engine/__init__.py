"""A sampler that is an engine beside this process: vLLM's server, over HTTP."""

from demotune.sampling.engine.engine import Engine
from demotune.sampling.engine.sampler import EngineSampler

__all__ = ["Engine", "EngineSampler"]
