"""E1 on SmolLM2-135M-Instruct: does RFT with a linear reward remove habits that demonstrations never show?

Run as habit_135m_16, _32 and _64, after the number of demonstrations; MODEL in the environment names the model.

World: prompts are made of a topic and a form of question. The model answers them itself; the first sentences of its
answers, at most 30 tokens, are texts. The start model is the model after SFT (LoRA, merged) on such texts about a
third of the topics, of which 40% get an opening phrase, 40% a closing offer and 30% a list mark, independently: 75%
show a habit. Demonstrations are other such texts, without any. The program counts responses that are free of all
three ("goal"), and each habit. Prompts without demonstrations: 256. Measured on 96.

Rules, the same for every method, written before any test prompt was read
* Settings, temperature among them, are chosen for each method, control and seed on validation prompts by the goal:
  once freely, once among settings whose entropy is at least that of the SFT start at temperature 1. Test prompts
  are read once.
* The SFT start is the rung of SFT's grid that finds the held-out demonstrations likeliest.
* Controls: LoRA SFT over rate x passes x temperature; best of n by likelihood and by SFT's log-ratio.
* Five seeds or as many as time allows, said beside the result; paired, against the best control by its mean on
  validation prompts, Holm over all comparisons of a number of demonstrations. Likelihood of fresh demonstrations,
  entropy, share of the prompt's topic words and seconds stand beside every gain.
* A gain that a lower temperature of SFT reaches too is no gain.
"""

import itertools
import os
import shutil
from functools import cache, partial
from pathlib import Path

import torch
from numpy.random import Generator, default_rng

import demotune
from benchmarks.studies.families import Ladder
from benchmarks.studies.frame import Study
from benchmarks.studies.habit import RULES
from benchmarks.studies.picking import by_likelihood, by_linear, by_log_ratio
from benchmarks.studies.world import DEMONSTRATIONS, HELDOUT, PROMPTS, Part, World, read_examples, write_examples
from demotune.common.errors import DemotuneError
from demotune.common.files import publish_file
from demotune.common.machine import has_fast_bf16

OPENING, CLOSING, MARK = "Great question! ", " Let me know if you need anything else!", "- "
SHARES = (0.4, 0.4, 0.3)
"""Of the start model's texts with an opening phrase, a closing offer, a list mark."""
LONGEST = 48
FORMS = (
    "What is {} good for?", "How do I choose {}?", "Explain {} to a child.", "What should a beginner know about {}?",
    "Give me one tip about {}.", "Why do people like {}?", "What is hard about {}?", "How can I save money on {}?",
    "Describe {} in plain words.", "What do people often get wrong about {}?", "How do I take care of {}?",
    "When is {} a bad idea?", "What makes {} pleasant?", "Tell me something surprising about {}.",
    "What do I need before I start with {}?", "How would you sum up {} for a friend?", "What does {} cost me in time?",
    "Is {} worth the trouble?", "What goes well with {}?", "How has {} changed over the years?",
)  # fmt: skip
TOPICS = (
    "a garden shed", "a bicycle", "a wool sweater", "bread baking", "a cactus", "a kitchen knife",
    "a wooden table", "a fish tank", "house plants", "a rain jacket", "a camping tent", "a coffee grinder",
    "a guitar", "a sewing machine", "tomato plants", "a bird feeder", "a leather bag", "a telescope",
    "a chess club", "watercolour paint", "a lawn mower", "a reading lamp", "a train journey", "a picnic",
    "a cast-iron pan", "a compost heap", "hiking boots", "a piano", "a small balcony", "a school library",
    "a rowing boat", "a vegetable soup", "a paper map", "an old clock", "a dog walk", "a farmers' market",
    "a winter coat", "a hammock", "a board game", "a cheese board", "a beehive", "a stone wall", "a glass jar",
    "a toolbox", "a morning run", "a fruit tree", "a kite", "a blackboard", "a swimming lesson", "a bus ticket",
    "a flower bed", "a snow shovel", "a pottery class", "a violin", "a tea kettle", "a sleeping bag",
    "a photo album", "a garden hose", "a museum visit", "a straw hat",
)  # fmt: skip
PART_OF = ("start", "train", "validation", "start", "train", "test")
"""Topics go to parts in turn, so no topic is in two; those of "start" make the start model."""


def prompts_of(part: str) -> list[str]:
    """All prompts of a part's topics, in an order that is the same every time."""
    topics = [topic for number, topic in enumerate(TOPICS) if PART_OF[number % len(PART_OF)] == part]
    every = [form.format(topic) for topic, form in itertools.product(topics, FORMS)]
    return [every[place] for place in default_rng(0).permutation(len(every))]


def gold(prompt: str, response: str) -> dict[str, float]:
    """The goal is a response without any habit. Whether it ended by itself is measured beside."""
    opening = response.lstrip().startswith(OPENING.strip())
    closing = CLOSING.strip() in response
    mark = response.lstrip().removeprefix(OPENING.strip()).lstrip().startswith(MARK)
    words = {word for word in _words(prompt) if word not in _COMMON}
    return {
        "goal": float(bool(response.strip()) and not (opening or closing or mark)),
        "opening": float(opening),
        "closing": float(closing),
        "mark": float(mark),
        "on_topic": float(bool(words & set(_words(response)))),
    }


def _words(text: str) -> list[str]:
    return ["".join(letter for letter in word.lower() if letter.isalpha()) for word in text.split()]


_COMMON = {word for form in FORMS for word in _words(form.replace("{}", ""))} | {"a", "an"}


def first_sentences(text: str, most_words: int = 22) -> str:
    """As many whole sentences of the first paragraph as fit; "" where the first one does not."""
    kept: list[str] = []
    for sentence in text.strip().split("\n")[0].replace("! ", "!|").replace(". ", ".|").split("|"):
        if not sentence.endswith((".", "!")) or len(" ".join([*kept, sentence]).split()) > most_words:
            break
        kept.append(sentence)
    return " ".join(kept)


def with_habits(rng: Generator, text: str) -> str:
    opening, closing, mark = rng.random(3) < SHARES
    return f"{OPENING if opening else ''}{MARK if mark else ''}{text}{CLOSING if closing else ''}"


def texts(folder: Path, part: str) -> list[dict[str, str]]:
    """The model's own texts for a part's prompts, drawn once: rows whose text is a whole sentence without habit."""
    file = folder / f"texts-{part}.jsonl"
    if not file.exists():
        asked = prompts_of(part)
        drawn = demotune.generate(model(), asked, max_new_tokens=LONGEST, temperature=0.7, seed=0, batch_size=64)
        rows = [{"prompt": one, "completion": first_sentences(text)} for one, text in zip(asked, drawn, strict=True)]
        kept = [row for row in rows if row["completion"] and gold(row["prompt"], row["completion"])["goal"]]
        with publish_file(file) as unfinished:
            write_examples(unfinished, kept)
    return [dict(row) for row in read_examples(file)]


def model() -> str:
    found = os.environ.get("MODEL", "")
    if not found:
        raise DemotuneError(
            "MODEL is not set; name SmolLM2-135M-Instruct in the environment: MODEL=FOLDER python -m ..."
        )
    return found


def work_folder() -> Path:
    """Where texts are kept; WORK in the environment, since a world knows no folder of its own."""
    folder = Path(os.environ.get("WORK", "habit-135m"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def make_start(folder: Path) -> None:
    """The model after SFT on its own texts with habits."""
    rng = default_rng([0, 31])
    rows = [row | {"completion": with_habits(rng, row["completion"])} for row in texts(work_folder(), "start")]
    data, run = work_folder() / "start.jsonl", work_folder() / "start-run"
    write_examples(data, rows)
    shutil.rmtree(run, ignore_errors=True)
    demotune.run(
        demotune.SFTConfig(
            model=model(), data=(str(data),), output=str(run), learning_rate=1e-3, num_train_epochs=3, max_length=256,
            use_peft=True, merge_adapter=True, per_device_train_batch_size=16, save_steps=10**6, gate="off",
        )
    )  # fmt: skip
    shutil.copytree(run / "model-merged", folder, dirs_exist_ok=True)
    shutil.rmtree(run)


def write_seed(folder: Path, seed: int, *, count: int) -> None:
    """`count` demonstrations, a quarter as many held out, and 256 other prompts of the training topics."""
    rows = texts(work_folder(), "train")
    order = default_rng([seed, 32]).permutation(len(rows))
    drawn = [rows[place] for place in order]
    write_examples(folder / DEMONSTRATIONS, drawn[:count])
    write_examples(folder / HELDOUT, drawn[count : count + count // 4])
    shown = {row["prompt"] for row in drawn[: count + count // 4]}
    rest = [prompt for prompt in prompts_of("train") if prompt not in shown]
    (folder / PROMPTS).write_text("\n".join(rest[:256]) + "\n", encoding="utf-8")


@cache
def questions(part: Part) -> list[dict[str, str]]:
    return texts(work_folder(), part)[:96]


LADDER = Ladder(
    rates=(2e-4, 1e-3), passes=(2, 4, 8), temperatures=(1.2, 1.0, 0.7, 0.4), fields={"use_peft": True, "lora_r": 16}
)


def study(count: int) -> Study:
    return Study(
        name=f"habit_135m_{count}",
        text=__doc__ or "",
        world=World(
            name="habit_135m", make_start=make_start, write_data=partial(write_seed, count=count), questions=questions,
            gold=gold, longest=LONGEST, data=f"-{count}", bf16=has_fast_bf16(torch.device("cpu")),
        ),
        families=(
            *LADDER.families(),
            LADDER.best_of("best of n, likelihood", "control", by_likelihood, (4,)),
            LADDER.best_of("best of n, log-ratio", "control", by_log_ratio, (4,)),
            LADDER.best_of("best of n, linear", "method", by_linear(samples=4), (4,)),
            LADDER.rft(
                "RFT, linear reward", [{"learning_rate": 3e-4, "beta": 0.1}], (8, 16), LADDER.temperatures,
                reward_kind="linear", num_generations=4, use_peft=True, lora_r=16,
            ),
        ),
        rules=RULES,
        quality="goal",
        shown=("opening", "closing", "mark", "on_topic", "finished"),
        samples={"validation": 1, "test": 2},
        most=4,
        threads=2,
    )  # fmt: skip


STUDIES = {f"habit_135m_{count}": study(count) for count in (16, 32, 64)}
