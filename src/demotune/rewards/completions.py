"""Drawn responses as a reward reads them: token ids where it shares the policy's vocabulary, else their text."""

from collections.abc import Sequence
from dataclasses import dataclass

from demotune.common.errors import DemotuneError
from demotune.common.progress import track, warn
from demotune.data.rendering import Renderer, RenderError
from demotune.records import NO_CONTEXT, Completion, Context, Demonstration, Message, Response
from demotune.rewards.reward import Reward, as_completion, checked_length


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt as somebody wrote it, and its ids as the policy read them."""

    prompt: Sequence[Message]
    ids: tuple[int, ...]
    context: Context = NO_CONTEXT


def completions_for(
    reward: Reward,
    renderer: Renderer,
    asked: Sequence[Asked],
    drawn: Sequence[Response],
) -> list[Completion | None]:
    """What the reward reads of each response, None where it cannot.

    The very ids that were drawn where the reward has the policy's vocabulary and writes these prompts alike; otherwise
    the text, written anew by the reward's own renderer.
    """
    distinct = {id(one): one for one in asked}.values()  # the responses to one prompt share what was asked
    alike = reward.renderer.reads_ids_of(renderer) and all(
        one.ids in _prompt_forms(reward.renderer, one) for one in distinct
    )
    found: list[Completion | None] = []
    refusals: list[str] = []
    for one, response in zip(asked, drawn, strict=True):
        try:
            if alike:
                found.append(checked_length(reward, Completion(one.ids, response)))
            else:
                text = renderer.decode_for_another(one.ids, response.ids)
                row = Demonstration(tuple(one.prompt), text, "", context=one.context)
                found.append(as_completion(reward, row, finished=response.finished))
        except RenderError as error:
            refusals.append(str(error))
            found.append(None)
    if len(refusals) == len(drawn):
        raise DemotuneError(f"the reward can read none of the {len(drawn)} responses ({refusals[0]})")
    if refusals:
        warn(f"{len(refusals)} of {len(drawn)} responses have no score and come last ({refusals[0]})")
    return found


def rewards_of_readable(
    reward: Reward, completions: Sequence[Completion | None], *, batch_size: int, what: str
) -> list[float | None]:
    """The reward of each completion, None for what it cannot read; shows progress as `what`."""
    readable = [completion for completion in completions if completion is not None]
    with track(what, reward.passes * len(readable), "passes") as tracker:
        rewards = iter(reward.rewards_of(readable, batch_size=batch_size, advance=tracker.advance))
    return [None if completion is None else next(rewards) for completion in completions]


def _prompt_forms(renderer: Renderer, asked: Asked) -> tuple[tuple[int, ...], ...]:
    """The prompt's ids, with and without reasoning; none where this renderer cannot write it."""
    try:
        return renderer.prompt_forms(asked.prompt, asked.context)
    except RenderError:
        return ()
