"""Prompts in, responses out, outside of any run: `demotune sample`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from demotune.data import as_prompt, read_prompt_file
from demotune.errors import DemotuneError
from demotune.files import write_rows
from demotune.machine import default_attention, has_fast_bf16
from demotune.models import generation_stop_ids, load_policy, load_tokenizer, merged, resolve_model
from demotune.processes import this_device
from demotune.progress import say, track
from demotune.records import Message
from demotune.rendering import Renderer, RenderError
from demotune.sampling import SamplingOptions, plan_batches, sample_responses


@dataclass(frozen=True, slots=True)
class Answer:
    """A response as text; unfinished when it hit the length limit."""

    text: str
    finished: bool


def answer(
    model: str,
    prompts: Sequence[Sequence[Message]],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    template: str | None = None,
    seed: int = 42,
    batch_size: int = 32,
    dtype: str = "float32",
) -> list[Answer]:
    """One response per conversation, in order. Raises DemotuneError for a model or prompt that cannot be used."""
    folder = resolve_model(model)
    device = this_device()
    renderer = Renderer(load_tokenizer(folder), template, generation_stop_ids(folder))
    options = SamplingOptions(
        max_new_tokens=max_new_tokens,
        stop_ids=renderer.stop_ids,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        bf16=has_fast_bf16(device),
    )
    rendered = [_render(renderer, number, prompt) for number, prompt in enumerate(prompts, start=1)]
    policy = merged(
        load_policy(
            folder,
            dtype=dtype,
            attn_implementation=default_attention(device, max(map(len, rendered)) + max_new_tokens),
            device=device,
        )
    )
    answers: dict[int, Answer] = {}
    with track("sample", len(prompts), "responses") as tracker:
        for rows in plan_batches(rendered, batch_size):
            for row, response in sample_responses(policy, [rendered[row] for row in rows], rows, seed, options):
                answers[row] = Answer(renderer.decode(response.ids), response.finished)
            tracker.advance(len(rows))
    return [answers[row] for row in range(len(prompts))]


def read_prompts(texts: Sequence[str], file: Path | None) -> list[tuple[Message, ...]]:
    """Conversations from texts and from a file (.txt: one prompt a line; else JSONL with `prompt` or `messages`)."""
    found = [as_prompt(text) for text in texts]
    if file is not None:
        found += [prompt for _, prompt in read_prompt_file(file)]
    if not found:
        raise DemotuneError("there is no prompt; give --prompt TEXT or --prompts FILE")
    return found


def show_answers(prompts: Sequence[Sequence[Message]], answers: Sequence[Answer], output: Path | None) -> None:
    """To the screen, or as JSONL (messages, finished) to `output`."""
    if output is not None:
        write_rows(
            output,
            (
                {
                    "prompt": list(prompt),
                    "completion": [{"role": "assistant", "content": given.text}],
                    "finished": given.finished,
                }
                for prompt, given in zip(prompts, answers, strict=True)
            ),
        )
        say(f"{len(answers)} responses written to {output}")
        return
    for prompt, given in zip(prompts, answers, strict=True):
        say(f"> {prompt[-1]['content']}", style="bold")
        say(given.text + ("" if given.finished else "  [cut off at --max-new-tokens]"))
        say()


def _render(renderer: Renderer, number: int, prompt: Sequence[Message]) -> tuple[int, ...]:
    try:
        return renderer.prompt_ids(prompt)
    except RenderError as error:
        raise DemotuneError(f"prompt {number} cannot be rendered: {error}") from error
