"""How responses are drawn: the settings that every sampler takes."""

import sys
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How to draw. Temperature 0 is greedy; top_p 1 and top_k 0 are off; `stop_ids` end a response.

    A response is cut off at `max_new_tokens`, or where prompt and response together reach `max_length`. Of models with
    more embedding rows than tokens (a padded vocabulary), only ids of `vocabulary` are drawn; None: all of them.
    """

    max_new_tokens: int
    stop_ids: frozenset[int]
    max_length: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    bf16: bool = False
    vocabulary: frozenset[int] | None = None

    def limit(self, prompt_length: int) -> int:
        """Most tokens of a response to a prompt of so many tokens; one is always drawn."""
        return max(min(self.max_new_tokens, (self.max_length or sys.maxsize) - prompt_length), 1)
