"""Answers to prompts, outside of any run: `demotune sample`; with a reward the best of several responses."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

from demotune.common.errors import DemotuneError
from demotune.common.files import hash_of, write_rows
from demotune.common.machine import computes_in_bf16
from demotune.common.processes import this_device
from demotune.common.progress import say, track
from demotune.config.drawing import DrawingOptions, GenerationOptions
from demotune.config.sampler import IN_PROCESS
from demotune.data.rendering import Renderer, RenderError
from demotune.models.policy import content_hash, load_policy, longest_input, resolve_model
from demotune.models.tokenizers import renderer_of
from demotune.records import Message, Response
from demotune.rewards.answer_journal import AnswerJournal, journal_beside
from demotune.rewards.completions import Asked, completions_for, rewards_of_readable
from demotune.rewards.reward import Reward
from demotune.sampling import Sampler, SamplingOptions, sampler_for
from demotune.sampling.pace import Pace


@dataclass(frozen=True, slots=True)
class Answer:
    """A response as text; unfinished when it hit the length limit."""

    text: str
    finished: bool
    reward: float | None = None
    """By which it was chosen; None where no reward chose, or where the reward could not read it."""
    first_reward: float | None = None
    """Of the first response to the prompt, the one that is drawn where no reward chooses; None where it was cut off."""


@dataclass(frozen=True, slots=True)
class BestOf:
    """Draw `count` responses to each prompt and keep the one that the reward likes best, finished ones first."""

    count: int
    reward: Reward

    def refuse_greedy(self, options: GenerationOptions) -> None:
        """Raise DemotuneError where all responses to a prompt would be the same one."""
        if self.count > 1 and (options.temperature == 0 or options.top_k == 1):
            raise DemotuneError(
                f"best of {self.count} needs responses that differ, and greedy ones are all alike; "
                "give a --temperature above 0 and no --top-k 1"
            )

    def choose(
        self, renderer: Renderer, asked: Sequence[Asked], drawn: Sequence[Response], batch_size: int
    ) -> list[Answer]:
        """The best answer to each prompt; `drawn` are the first response to each, then the second, and so on."""
        completions = completions_for(self.reward, renderer, [*asked] * self.count, drawn)
        rewards = rewards_of_readable(self.reward, completions, batch_size=batch_size, what="score")
        first = [reward if one.finished else None for one, reward in zip(drawn, rewards[: len(asked)], strict=False)]
        answers = [
            Answer(renderer.decode(response.ids), response.finished, reward, first[number % len(asked)])
            for number, (response, reward) in enumerate(zip(drawn, rewards, strict=True))
        ]

        def merit(given: Answer) -> tuple[bool, float]:
            return given.finished, -math.inf if given.reward is None else given.reward

        return [max(answers[row :: len(asked)], key=merit) for row in range(len(asked))]


def answer(
    model: str,
    prompts: Sequence[Sequence[Message]],
    options: GenerationOptions,
    *,
    best_of: BestOf | None = None,
    sampler: Sampler | None = None,
    journal: Path | None = None,
) -> list[Answer]:
    """One response per conversation, in order. Raises DemotuneError for a model or prompt that cannot be used.

    The first of several responses to a prompt is the one that is drawn without `best_of`, the first two of four are
    those of two, and so on: more responses never make the best one worse. `sampler` draws instead of this process, from
    the same model. Responses are kept in the file `journal`; those that are there are not drawn again.
    """
    if best_of is not None:
        best_of.refuse_greedy(options)
    folder = resolve_model(model)
    renderer = renderer_of(folder, options.template)
    longest = longest_input(folder)
    rendered = [_render(renderer, number, prompt, longest) for number, prompt in enumerate(prompts, start=1)]
    for remark in renderer.remarks():
        say(remark)
    settings = sampling_options(options, renderer, longest)
    with nullcontext(sampler) if sampler else _sampler(folder, options, rendered, settings) as drawing:
        drawn = drawn_in_order(
            drawing,
            rendered * (1 if best_of is None else best_of.count),
            options.seed,
            settings,
            what="sample",
            journal=None if journal is None else AnswerJournal(journal, _settings(folder, rendered, options)),
        )
    if best_of is None:
        return [Answer(renderer.decode(response.ids), response.finished) for response in drawn]
    asked = [Asked(prompt, ids) for prompt, ids in zip(prompts, rendered, strict=True)]
    return best_of.choose(renderer, asked, drawn, options.batch_size)


@contextmanager
def _sampler(
    folder: Path, options: GenerationOptions, prompts: Sequence[Sequence[int]], settings: SamplingOptions
) -> Iterator[Sampler]:
    """What draws; the policy is loaded when it first does, and freed with the sampler.

    The log of a server that was started is kept where something fails.
    """
    load = partial(load_policy, folder, dtype=options.dtype, attn_implementation=None, device=this_device())
    place = Path(mkdtemp(prefix="demotune-"))
    try:
        with sampler_for(
            load, str(folder), prompts, settings, chosen=options, folder=place, model=folder, slots=options.batch_size
        ) as sampler:
            yield sampler
    except BaseException:
        with suppress(OSError):  # a folder with a log in it stays
            place.rmdir()
        raise
    rmtree(place)


def sampling_options(options: DrawingOptions, renderer: Renderer, longest: int | None) -> SamplingOptions:
    return SamplingOptions(
        max_new_tokens=options.max_new_tokens,
        stop_ids=renderer.stop_ids,
        vocabulary=renderer.vocabulary,
        max_length=longest,
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k,
        bf16=computes_in_bf16(options.bf16),
    )


def _settings(
    folder: Path, prompts: Sequence[Sequence[int]], options: GenerationOptions
) -> dict[str, str | int | float]:
    """What decides each response, beside its number: how many there are, and which reward chooses, does not."""
    return {
        "model": content_hash(folder),
        "prompts": hash_of(prompts),
        "max_new_tokens": options.max_new_tokens,
        "temperature": options.temperature,
        "top_p": options.top_p,
        "top_k": options.top_k,
        "seed": options.seed,
        "dtype": options.dtype,
        "bf16": computes_in_bf16(options.bf16),
        **({} if options.sampler == IN_PROCESS else {"sampler": "an engine"}),
    }


def show_answers(prompts: Sequence[Sequence[Message]], answers: Sequence[Answer], output: Path | None) -> None:
    """To the screen, or as JSONL (messages, finished; with a reward also its score) to `output`."""
    if output is not None:
        write_rows(output, (_row(prompt, given) for prompt, given in zip(prompts, answers, strict=True)))
        journal_beside(output).unlink(missing_ok=True)
        say(f"{len(answers)} responses written to {output}")
        return
    for prompt, given in zip(prompts, answers, strict=True):
        say(f"> {prompt[-1]['content']}", style="bold")
        say(given.text + ("" if given.finished else "  [cut off at --max-new-tokens]"))
        if given.reward is not None:
            say(f"[score {given.reward:.4g}]")
        say()


def _row(prompt: Sequence[Message], given: Answer) -> dict[str, object]:
    row = {
        "prompt": list(prompt),
        "completion": [{"role": "assistant", "content": given.text}],
        "finished": given.finished,
    }
    return row if given.reward is None else row | {"score": given.reward}


def _render(renderer: Renderer, number: int, prompt: Sequence[Message], longest: int | None) -> tuple[int, ...]:
    try:
        ids = renderer.prompt_ids(prompt)
    except RenderError as error:
        raise DemotuneError(f"prompt {number} cannot be rendered: {error}") from error
    if longest is not None and len(ids) >= longest:
        raise DemotuneError(
            f"prompt {number} has {len(ids)} tokens and the model has {longest} positions, answer included; shorten it"
        )
    return ids


def drawn_in_order(
    sampler: Sampler,
    prompts: Sequence[Sequence[int]],
    seed: int,
    options: SamplingOptions,
    *,
    what: str,
    journal: AnswerJournal | None = None,
) -> list[Response]:
    """One response for each prompt, in order, each from a random stream of its own; shows progress as `what`.

    What the journal has is not drawn; the rest is kept there as it comes.
    """
    found = {} if journal is None else dict(journal.done)
    left = [row for row in range(len(prompts)) if row not in found]
    with track(what, len(prompts), "responses") as tracker:
        tracker.start_at(len(prompts) - len(left))

        def drawn() -> Iterator[tuple[int, Response]]:
            pace = Pace(tracker, len(left), None, options.max_new_tokens)
            drawing = pace.listened(sampler)
            for row, response in drawing.draw([prompts[row] for row in left], left, seed, options) if left else ():
                found[row] = response
                pace.finish(response)
                yield row, response

        if journal is None:
            deque(drawn(), maxlen=0)
        else:
            journal.append_in_turn(drawn())
    return [found[row] for row in range(len(prompts))]
