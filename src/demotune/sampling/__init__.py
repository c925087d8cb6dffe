"""Draw responses from a policy: the `Sampler` protocol, the sampler in this process, and an engine beside it."""

from demotune.sampling.engine import Engine, EngineSampler, engine_for
from demotune.sampling.in_process.choosing import choose_tokens
from demotune.sampling.in_process.sampler import InProcessSampler, sample_responses
from demotune.sampling.options import SamplingOptions
from demotune.sampling.protocol import Sampler

__all__ = [
    "Engine", "EngineSampler", "InProcessSampler", "Sampler", "SamplingOptions", "choose_tokens", "engine_for",
    "sample_responses",
]  # fmt: skip
