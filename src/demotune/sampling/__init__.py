"""Draw responses from a policy: the `Sampler` protocol, the sampler in this process, and an engine beside it."""

from demotune.sampling.engine import Engine, EngineSampler
from demotune.sampling.from_config import choose_sampler, engine_for, sampler_for
from demotune.sampling.in_process.choosing import choose_tokens
from demotune.sampling.in_process.sampler import InProcessSampler, sample_responses
from demotune.sampling.options import SamplingOptions
from demotune.sampling.protocol import Sampler

__all__ = [
    "Engine", "EngineSampler", "InProcessSampler", "Sampler", "SamplingOptions", "choose_sampler", "choose_tokens",
    "engine_for", "sample_responses", "sampler_for",
]  # fmt: skip
