"""What a sampler is, whatever draws the tokens: this process, or an engine beside it."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from demotune.records import Response
from demotune.sampling.options import SamplingOptions


class Sampler(Protocol):
    """Draws responses of one policy to prompts of token ids.

    What an implementation must keep:

    * Token ids in, token ids out. No text is tokenised or decoded on the way: training needs the very ids that were
      drawn.
    * A response ends with the first of `options.stop_ids` that is drawn, which is part of it, and is then `finished`.
      Otherwise it has exactly `options.limit(len(prompt))` tokens, no stop token among them, and is unfinished. It has
      at least one token. Ids outside of `options.vocabulary` are never drawn.
    * One sampler draws from one policy. After its weights change, make a new sampler.
    * Randomness comes from (seed, stream) alone. In process, the same pair gives the same response whatever the other
      prompts, the number of slots or an earlier interruption, beyond rounding. An engine must pass each request a seed
      made of both, and promises no more than its own determinism for a single request.
    * `Response.logps` is None or has one number per token: log-probabilities, in nats, under the policy without
      temperature or truncation.
    """

    def draw(
        self, prompts: Sequence[Sequence[int]], streams: Sequence[int], seed: int, options: SamplingOptions
    ) -> Iterator[tuple[int, Response]]:
        """One response for each prompt: (stream, response) as each is done, in no order to rely on.

        `streams[i]`, all of them different, names the random stream of `prompts[i]`. A caller that stops early keeps
        the responses that it has seen, and asks for the others later, with the same streams and seed. Raises
        DemotuneError where a single response cannot be drawn.
        """

    def ready(self, prompts: Sequence[Sequence[int]], options: SamplingOptions) -> AbstractContextManager[None]:
        """Around `draw`, where several processes draw: all of them enter and leave together, with the prompts of all.

        Inside, an engine holds the policy's weights, which must not change. `draw` alone enters it by itself.
        """

    def keeps_logps(self, options: SamplingOptions) -> bool:
        """Whether responses come with `logps` that are exact enough to train on: in float32, no distribution changed.

        Where it is False they are computed again before training, as for every sampler that rounds in another way than
        the trainer does.
        """
