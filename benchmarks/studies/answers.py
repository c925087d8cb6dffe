"""E3: demonstrations hold answers, thoughts are free: does a reward on the answer beat learning from answers?

World: add eight digits modulo 7. A response is a thought of at most 9 digits, `#`, and the answer. The start model,
87,000 numbers made from scratch, has read thoughts of several kinds: running sums, each with a mistake in one of
eight steps, whose last digit it then answers (a third of all); the prompt's digits in order, in reverse, and random
ones, each followed by a random answer. Demonstrations are 64 prompts to train on, and 16 held out, with the answer
alone; the response to imitate is `#` and the answer.

Methods
* Latent reward: the policy writes thoughts z of its own, and r(z) = log pi(y* | x, z) under the policy, or the
  probability itself; RLOO on r, and r's own gradient.
Controls
* SFT on the demonstrations; SFT on them with the start model's own thoughts in front, unfiltered.
* STaR filter: own thoughts whose own answer is right are kept, the start model learns on them; again from the new
  one.
* The start model at a lower temperature; the majority of 16 of its answers.

Rules, written before any test prompt was read
* Settings, rounds and temperature among them, are chosen for each method, control and seed on validation prompts by
  the share of right answers: once freely, once among settings of at most 5 seconds of processor time.
* Eight seeds with demonstrations of their own and the same test prompts; the latent reward is compared with the
  best control by its mean on validation prompts, paired by seed, Holm over all comparisons. Seconds and entropy
  stand beside.
* A tie with the STaR filter means: filter.
"""

import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import default_rng

from benchmarks.studies.families import Ladder, grid, measured
from benchmarks.studies.frame import Bench, Family, Row, Rule, Setting, Study
from benchmarks.studies.measuring import Found, Reader, draw, load
from benchmarks.studies.sums import LONGEST_THOUGHT, VOCABULARY, answer_to, gold, pretrain, questions, write_seed
from benchmarks.studies.training import Trained, kept
from benchmarks.studies.world import DEMONSTRATIONS, World, read_examples
from demotune.models.batches import pack_sides
from demotune.models.logprobs import response_logps
from demotune.models.policy import save_policy
from demotune.models.tokenizers import load_tokenizer
from demotune.records import Response
from demotune.sampling import SamplingOptions, sample_responses

UNFINISHED = -5.0
"""Reward, in nats, of a thought that does not come to its `#`."""


class _Pupil:
    """The policy in training, with what every method of this study does: think, judge, take a step."""

    def __init__(self, bench: Bench, rate: float) -> None:
        self.reader = Reader.of(bench.world, bench.start)
        self.policy = load(bench.start)
        self.optimizer = torch.optim.AdamW(self.policy.parameters(), lr=rate, weight_decay=0.0)
        self.rows = read_examples(bench.folder / DEMONSTRATIONS)
        self.prompts = [row.prompt_ids for row in self.reader.demonstrations(self.rows)]
        self.endings = [row.response.ids for row in self.reader.demonstrations(self.rows)]
        """`#`, answer, end of each row."""
        self._options = SamplingOptions(LONGEST_THOUGHT, frozenset({VOCABULARY["#"]}))

    def think(self, rows: Sequence[int], samples: int, seed: int) -> list[tuple[int, Response]]:
        """(row, thought up to and with `#`), `samples` for each row; one that was cut off is not finished."""
        asked = [row for row in rows for _ in range(samples)]
        prompts = [self.prompts[row] for row in asked]
        drawn = sample_responses(self.policy, prompts, range(len(asked)), seed, self._options, slots=512)
        found = dict(drawn)
        return [(row, found[place]) for place, row in enumerate(asked)]

    def with_answer(self, row: int, thought: Response) -> tuple[int, tuple[int, ...]]:
        """The row with the thought and, where that is finished, the demonstrated answer."""
        return row, (*thought.ids, *(self.endings[row][1:] if thought.finished else ()))

    def logps(self, sides: Sequence[tuple[int, tuple[int, ...]]]) -> torch.Tensor:
        """(B, R) of the tokens of each response to the row's prompt."""
        return response_logps(self.policy, pack_sides([(self.prompts[row], ids) for row, ids in sides])).logps

    def step(self, loss: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        self.optimizer.step()


PROMPTS_A_STEP, THOUGHTS = 16, 8


def latent(bench: Bench, rate: float, reward: str, steps: tuple[int, ...]) -> dict[int, Trained]:
    """RLOO on r(z), and r's own gradient; their expectation is the gradient of E_z r(z).

    `reward` is "log", r(z) = log pi(y* | x, z), whose mean is a lower bound of the answer's log-likelihood, or
    "probability", pi(y* | x, z) itself, whose mean is the answer's likelihood.
    """

    def make(folder: Path) -> None:
        begun, seconds = time.process_time(), {}
        pupil, rng = _Pupil(bench, rate), default_rng([bench.seed, 21])
        for step in range(1, max(steps) + 1):
            rows = rng.choice(len(pupil.rows), size=PROMPTS_A_STEP, replace=False).tolist()
            thoughts = pupil.think(rows, THOUGHTS, seed=1000 * bench.seed + step)
            logps = pupil.logps([pupil.with_answer(row, thought) for row, thought in thoughts])
            of_thought = torch.arange(logps.shape[1]) < torch.tensor([[len(thought.ids)] for _, thought in thoughts])
            answers = logps.masked_fill(of_thought, 0.0).sum(dim=-1)
            finished = torch.tensor([thought.finished for _, thought in thoughts])
            rewards = torch.where(finished, answers.detach(), UNFINISHED)
            weight = torch.ones_like(answers)
            if reward == "probability":
                rewards, weight = rewards.exp(), rewards.exp()
            advantages = leave_one_out([row for row, _ in thoughts], rewards)
            loss = -(advantages * logps.masked_fill(~of_thought, 0.0).sum(dim=-1) + weight * answers).mean()
            pupil.step(loss)
            if step in steps:
                seconds[str(step)] = time.process_time() - begun
                save_policy(pupil.policy, load_tokenizer(bench.start), folder / str(step))
        (folder / "facts.json").write_text(json.dumps(seconds), encoding="utf-8")

    return _kept(bench, f"latent-{reward}-{rate:g}", make, {"rate": rate, "reward": reward})


def leave_one_out(groups: Sequence[int], rewards: torch.Tensor) -> torch.Tensor:
    """(B,) each reward less the mean of the others of its group; 0 for one without others."""
    same = torch.tensor(groups)[:, None] == torch.tensor(groups)[None]
    others = same.sum(dim=1) - 1
    rest = (same.float() @ rewards) - rewards
    return torch.where(others > 0, rewards - rest / others.clamp(min=1), 0.0)


def star(bench: Bench, rate: float, rounds: tuple[int, ...], *, filtered: bool) -> dict[int, Trained]:
    """Each round: THOUGHTS own responses to every prompt, those with the right answer are learned for two passes.

    Not filtered: all thoughts are learned, each with the demonstrated answer.
    """

    def make(folder: Path) -> None:
        begun, seconds = time.process_time(), {}
        pupil, rng = _Pupil(bench, rate), default_rng([bench.seed, 22])
        for number in range(1, max(rounds) + 1):
            rows = range(len(pupil.rows))
            if filtered:
                drawn = draw(pupil.policy, pupil.reader, pupil.prompts, 1000 * bench.seed + number, 1.0, THOUGHTS)
                learned = [(row, one.ids) for row in rows for one in drawn[row] if _right(pupil, row, one)]
            else:
                thoughts = pupil.think(rows, THOUGHTS, seed=1000 * bench.seed + number)
                learned = [pupil.with_answer(row, thought) for row, thought in thoughts if thought.finished]
            for _ in range(2):
                order = rng.permutation(len(learned))
                for members in np.array_split(order, max(len(learned) // (PROMPTS_A_STEP * 2), 1)):
                    batch = [learned[member] for member in members]
                    pupil.step(-pupil.logps(batch).sum() / sum(len(ids) for _, ids in batch))
            if number in rounds:
                seconds[str(number)] = time.process_time() - begun
                save_policy(pupil.policy, load_tokenizer(bench.start), folder / str(number))
        (folder / "facts.json").write_text(json.dumps(seconds), encoding="utf-8")

    name = "star" if filtered else "unfiltered"
    return _kept(bench, f"{name}-{rate:g}", make, {"rate": rate, "filtered": filtered})


def _right(pupil: _Pupil, row: int, response: Response) -> bool:
    return response.finished and gold(pupil.rows[row]["prompt"], pupil.reader.text(response))["goal"] == 1


def _kept(bench: Bench, name: str, make: Any, config: dict[str, Any]) -> dict[int, Trained]:
    folder = kept(bench.folder / name, make)
    seconds = json.loads((folder / "facts.json").read_text("utf-8"))
    return {int(at): Trained(folder / at, spent, config) for at, spent in seconds.items()}


def majority(bench: Bench, setting: Setting) -> Found:
    """The answer that most of n responses of the start model give; of equally many the first."""
    reader, rows = Reader.of(bench.world, bench.start), bench.world.questions(bench.part)
    asked = reader.demonstrations(rows)
    drawn = draw(
        load(bench.start), reader, [row.prompt_ids for row in asked], bench.seed, setting["temperature"], setting["n"]
    )
    votes = [Counter(reader.text(one).partition("#")[2] for one in each).most_common(1)[0][0] for each in drawn]
    right = [vote == answer_to(row["prompt"]) for vote, row in zip(votes, rows, strict=True)]
    return Found(
        {"goal": float(np.mean(right)), "temperature": setting["temperature"]}, 0.0, answers=setting["n"], samples=1
    )


WORLD = World("answers", pretrain, write_seed, questions, gold, longest=LONGEST_THOUGHT + 2)
TEMPERATURES = (1.0, 0.6, 0.3)
LADDER = Ladder(rates=(1e-3, 3e-3), passes=(5, 20, 40), temperatures=TEMPERATURES)
STEPS, RATES = (50, 100, 150), (3e-4, 1e-3)
MOST_SECONDS = 5.0


def quick(row: Row, start: Row) -> bool:
    return row.seconds <= MOST_SECONDS


def _star(name: str, rates: Sequence[float], rounds: tuple[int, ...], *, filtered: bool) -> Family:
    def trained(bench: Bench, setting: Setting) -> Trained:
        return star(bench, setting["rate"], rounds, filtered=filtered)[setting["rounds"]]

    settings = grid(rate=rates, rounds=rounds, temperature=TEMPERATURES)
    return Family(name, "control", settings, measured(trained))


def _start(bench: Bench, setting: Setting) -> Trained:
    return Trained(bench.start, 0.0, {})


def _latent(bench: Bench, setting: Setting) -> Trained:
    return latent(bench, setting["rate"], setting["reward"], STEPS)[setting["steps"]]


STUDY = Study(
    name="answers",
    text=__doc__ or "",
    world=WORLD,
    families=(
        Family("start model", "start", ({"temperature": 1.0},), measured(_start)),
        Family("start model, tempered", "control", grid(temperature=TEMPERATURES), measured(_start)),
        Family("majority of n", "control", grid(n=(16,), temperature=(1.0, 0.6)), majority),
        LADDER.sft(),
        _star("SFT, own thoughts", (1e-3,), (2, 8), filtered=False),
        _star("STaR filter", RATES, (2, 4, 8, 24), filtered=True),
        Family(
            "latent reward",
            "method",
            grid(reward=("log", "probability"), rate=RATES, steps=STEPS, temperature=TEMPERATURES),
            measured(_latent),
        ),
    ),
    rules=(
        Rule("freely", "the highest share of right answers", "goal"),
        Rule("quick", f"the same, at most {MOST_SECONDS:g} seconds of training", "goal", quick),
    ),
    quality="goal",
    shown=("running_sums", "thought_length"),
)  # fmt: skip
