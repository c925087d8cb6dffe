"""Draw responses from a policy: the `Sampler` protocol, and the sampler in this process."""

from demotune.sampling.in_process.choosing import choose_tokens
from demotune.sampling.in_process.sampler import InProcessSampler, sample_responses
from demotune.sampling.options import SamplingOptions
from demotune.sampling.protocol import Sampler

__all__ = ["InProcessSampler", "Sampler", "SamplingOptions", "choose_tokens", "sample_responses"]
