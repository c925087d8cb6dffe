"""Draw responses from a policy: waiting prompts take the place of finished ones, one random stream a row."""

from demotune.sampling.in_process.choosing import SamplingOptions, choose_tokens
from demotune.sampling.in_process.sampler import sample_responses

__all__ = ["SamplingOptions", "choose_tokens", "sample_responses"]
