"""`demotune chat`: a conversation with one model or two, token by token, each answer with its reward."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.columns import Columns
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from demotune.common.errors import DemotuneError
from demotune.common.processes import this_device
from demotune.common.progress import console, say
from demotune.common.screen import printable
from demotune.config.drawing import ChatConfig
from demotune.data.rendering import Renderer, RenderError
from demotune.models.policy import Policy, load_policy, longest_input, resolve_model
from demotune.models.tokenizers import renderer_of
from demotune.records import Message, Response
from demotune.rewards.answers import Answer, sampling_options
from demotune.rewards.completions import Asked, completions_for
from demotune.rewards.load import load_reward
from demotune.rewards.reward import Reward
from demotune.sampling import InProcessSampler

HELP = "/new: new conversation   /undo: take back the last exchange   /quit or Ctrl-D: leave; Ctrl-C stops an answer"
NARROWEST = 100
"""Columns of a terminal on which two answers stand side by side; on a narrower one they follow each other."""


Show = Callable[[str], None]
"""Takes an answer as far as it is drawn."""


@dataclass(slots=True)
class Speaker:
    """A model that answers; `show` gets its answer as it comes."""

    name: str
    renderer: Renderer
    policy: Policy
    longest: int | None
    config: ChatConfig

    def draw(self, ids: tuple[int, ...], turn: int, show: Show) -> Response:
        drawn: list[int] = []

        def listen(_: int, token: int) -> None:
            drawn.append(token)
            text = self.renderer.decode(drawn)
            if not text.endswith("\ufffd"):  # the first bytes of a character
                show(text)

        options = sampling_options(self.config, self.renderer, self.longest)
        sampler = InProcessSampler(lambda: self.policy, slots=1, listen=listen)
        ((_, response),) = sampler.draw([ids], [turn], self.config.seed, options)
        show(self.renderer.decode(response.ids))
        return response


def chat(config: ChatConfig) -> None:
    """Ask, answer, save, until the user leaves. Raises DemotuneError for models that cannot be loaded."""
    if config.output is not None:
        if config.output.is_dir():
            raise DemotuneError(f"--output {config.output} is a folder; name a file for the rows, as .jsonl")
        if config.output.suffix != ".jsonl":
            raise DemotuneError(f"--output {config.output} is to hold rows of JSON; name it {config.output.stem}.jsonl")
        config.output.parent.mkdir(parents=True, exist_ok=True)  # here, before a model is loaded
    speakers = [_load(name, config) for name in (config.model, config.beside) if name is not None]
    reward = None if config.reward is None else load_reward(config.reward, dtype=config.dtype, bf16=config.bf16)
    about = f"temperature {config.temperature:g}, seed {config.seed}" + (f"; reward: {reward.name}" if reward else "")
    say(f"{' and '.join(speaker.name for speaker in speakers)}: {about}")
    say(HELP)
    opening: list[Message] = [] if config.system is None else [{"role": "system", "content": config.system}]
    talk = list(opening)
    for turn, text in enumerate(_lines()):
        if text == "/new":
            talk = list(opening)
        elif text == "/undo":
            del talk[max(len(talk) - 2, len(opening)) :]
        elif text.startswith("/"):
            say(HELP)
        else:
            talk = _exchange(speakers, [*talk, {"role": "user", "content": text}], turn, config, reward) or talk


def _load(name: str, config: ChatConfig) -> Speaker:
    folder = resolve_model(name)
    renderer = renderer_of(folder, config.template)
    policy = load_policy(folder, dtype=config.dtype, attn_implementation=None, device=this_device())
    return Speaker(name, renderer, policy, longest_input(folder), config)


def _lines() -> Iterator[str]:
    """What the user types, until the end of input or /quit; empty lines are passed over."""
    while True:
        try:
            text = console.input("\n> ").strip()
        except EOFError:
            say()
            return
        except KeyboardInterrupt:
            say("\n/quit or Ctrl-D leaves")
            continue
        if text == "/quit":
            return
        if text:
            yield text


def _exchange(
    speakers: Sequence[Speaker], asked: Sequence[Message], turn: int, config: ChatConfig, reward: Reward | None
) -> list[Message] | None:
    """The conversation with the answer that is kept; None where the user stopped it or it has become too long."""
    try:
        with _shown(speakers) as shows:
            said = [_answer(*both, asked, turn, reward) for both in zip(speakers, shows, strict=True)]
    except KeyboardInterrupt:
        say("\n[stopped: this exchange does not count]")
        return None
    except RenderError as error:
        say(f"{error}; /new begins a new conversation", style="yellow")
        return None
    for speaker, one in zip(speakers, said, strict=True):
        cut = [] if one.finished else ["cut off at --max-new-tokens"]
        if remark := ", ".join(cut if one.reward is None else [*cut, f"reward {one.reward:.4g}"]):
            say(f"[{speaker.name + ': ' if len(said) > 1 else ''}{remark}]", style="dim")
    kept = _choose(speakers) if len(said) > 1 else 0
    if config.output is not None:
        _save(config.output, asked, [said[kept], *said[:kept], *said[kept + 1 :]])
    return [*asked, {"role": "assistant", "content": said[kept].text}]


def _answer(speaker: Speaker, show: Show, asked: Sequence[Message], turn: int, reward: Reward | None) -> Answer:
    """One response, shown as it comes. Raises RenderError where the conversation has become too long."""
    ids = speaker.renderer.prompt_ids(asked)
    if speaker.longest is not None and len(ids) >= speaker.longest:
        raise RenderError(
            "over-long", f"the conversation has {len(ids)} tokens, {speaker.name} reads {speaker.longest}"
        )
    response = speaker.draw(ids, turn, show)
    text = speaker.renderer.decode(response.ids)
    return Answer(text, response.finished, _reward(reward, speaker.renderer, Asked(asked, ids), response))


def _reward(reward: Reward | None, renderer: Renderer, asked: Asked, response: Response) -> float | None:
    """None also where the reward cannot read this answer."""
    if reward is None:
        return None
    try:
        (completion,) = completions_for(reward, renderer, [asked], [response])
    except DemotuneError:
        return None
    return None if completion is None else reward.rewards_of([completion])[0]


@contextmanager
def _shown(speakers: Sequence[Speaker]) -> Iterator[Sequence[Show]]:
    """Where each speaker's answer appears: two panels on a wide terminal, else one after the other."""
    if len(speakers) == 1 or not console.is_terminal or console.width < NARROWEST:
        yield [_printing(speaker.name if len(speakers) > 1 else None) for speaker in speakers]
        console.print()
        return
    texts = ["" for _ in speakers]

    def panels() -> Columns:
        width = console.width // len(speakers) - 1
        return Columns(
            [Panel(Text(text), title=Text(one.name), width=width) for one, text in zip(speakers, texts, strict=True)]
        )

    with Live(panels(), console=console) as live:

        def update(number: int, text: str) -> None:
            texts[number] = text
            live.update(panels())

        yield [partial(update, number) for number in range(len(speakers))]


def _printing(title: str | None) -> Show:
    """Prints what is new of an answer."""
    printed: list[str] = []

    def show(text: str) -> None:
        if not printed and title is not None:
            console.print(Text(f"\n{title}:", style="bold"))
        before = "".join(printed)
        if text.startswith(before):
            printed.append(text[len(before) :])
            console.file.write(printable(printed[-1]))
            console.file.flush()

    return show


def _choose(speakers: Sequence[Speaker]) -> int:
    """With which answer the conversation goes on: the first where the user just presses Enter."""
    numbers = [str(number) for number in range(1, len(speakers) + 1)]
    while True:
        try:
            text = console.input(f"go on with {' or '.join(numbers)}? [1] ").strip() or "1"
        except (EOFError, KeyboardInterrupt):
            return 0
        if text in numbers:
            return int(text) - 1


def _save(file: Path, asked: Sequence[Message], said: Sequence[Answer]) -> None:
    """Append a row that `--data` reads: a demonstration, or of two answers a preference."""
    completions = [[{"role": "assistant", "content": one.text}] for one in said]
    names = ("completion",) if len(said) == 1 else ("chosen", "rejected")
    row: dict[str, object] = {"prompt": list(asked), **dict(zip(names, completions, strict=True))}
    if said[0].reward is not None:
        row["score"] = said[0].reward
    with file.open("a", encoding="utf-8") as opened:
        opened.write(json.dumps(row, ensure_ascii=False) + "\n")
