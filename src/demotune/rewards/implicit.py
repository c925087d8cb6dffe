"""The implicit reward of SPIN and IRFT: the log-ratio of a policy to the model that it was trained from."""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from demotune.common.errors import DemotuneError
from demotune.common.machine import computes_in_bf16
from demotune.common.processes import this_device
from demotune.data.rendering import Renderer
from demotune.models.batches import Advance
from demotune.models.policy import content_hash, load_policy, longest_input, resolve_model
from demotune.models.reference_logps import completion_logps
from demotune.models.tokenizers import generation_stop_ids, load_tokenizer
from demotune.records import Completion
from demotune.rewards import answer_only
from demotune.rewards.answer_only import find_marker, with_thought_given
from demotune.rewards.reward import Reward, all_finite


class ImplicitReward(Reward):
    """beta * (log pi(y|x) - log pi_ref(y|x)), summed over response tokens: the reward of SPIN and IRFT, in beta * nats.

    `policy` and `reference` are models of one tokenizer, the policy's: folders, hub ids or GGUF files. They are loaded
    one after the other in each call, so that one is in memory at a time: give many completions at once. With
    `answer_after` only what follows the last of these texts in a response counts.
    """

    passes = 2

    def __init__(
        self,
        policy: str | Path,
        reference: str | Path,
        beta: float,
        *,
        template: str | None = None,
        answer_after: str | None = None,
        ranks_only: bool = False,
        dtype: str = "float32",
        bf16: bool | None = None,
    ) -> None:
        if not (math.isfinite(beta) and beta > 0):
            raise DemotuneError(f"beta must be > 0, got {beta}; give the beta that the policy was trained with")
        self._policy, self._reference = resolve_model(str(policy)), resolve_model(str(reference))
        tokenizer = load_tokenizer(self._policy)
        if load_tokenizer(self._reference).get_vocab() != tokenizer.get_vocab():
            raise DemotuneError(
                f"{reference} has another vocabulary than {policy}, so their log-probabilities cannot be compared; "
                "give the model that the policy was trained from as reference"
            )
        self._beta, self._dtype, self.ranks_only = beta, dtype, ranks_only
        self._bf16 = computes_in_bf16(bf16)
        self.name = f"implicit reward {beta:g} * log({policy} / {reference})"
        both = content_hash(self._policy), content_hash(self._reference)
        self.hash = hashlib.sha256(" ".join(map(str, filter(None, (beta, both, answer_after)))).encode()).hexdigest()
        self.renderer = Renderer(tokenizer, template, generation_stop_ids(self._policy))
        self.longest = longest_input(self._policy)
        self._marker = find_marker(tokenizer, answer_after, self.renderer.end_id)

    def without_thought(self, completion: Completion) -> Completion:
        return answer_only.without_thought(completion, self._marker)

    def rewards_of(
        self, completions: Sequence[Completion], *, batch_size: int = 16, advance: Advance = lambda _: None
    ) -> list[float]:
        """beta times the log-ratio of each completion; with `answer_after` of its answer, given its thought."""
        completions = [with_thought_given(row, self._marker) for row in completions]
        logps, ref_logps = (
            completion_logps(self._load(folder), completions, batch_size=batch_size, bf16=self._bf16, advance=advance)
            for folder in (self._policy, self._reference)
        )
        rewards = [self._beta * (logp - ref_logp) for logp, ref_logp in zip(logps, ref_logps, strict=True)]
        return all_finite(rewards, self.name)

    def _load(self, folder: Path) -> torch.nn.Module:
        return load_policy(folder, dtype=self._dtype, attn_implementation=None, device=this_device())
