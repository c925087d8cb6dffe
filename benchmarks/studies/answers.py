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
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator, default_rng
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.studies.families import Ladder, grid, measured
from benchmarks.studies.frame import Bench, Family, Row, Rule, Setting, Study
from benchmarks.studies.measuring import Found, Reader, draw, load
from benchmarks.studies.training import Trained, kept
from benchmarks.studies.world import DEMONSTRATIONS, HELDOUT, PROMPTS, Part, World, read_examples, write_examples
from demotune.models.batches import pack_sides
from demotune.models.logprobs import response_logps
from demotune.models.policy import load_tokenizer, save_policy
from demotune.records import Response
from demotune.sampling import SamplingOptions, sample_responses

BASE, DIGITS, LONGEST_THOUGHT = 7, 8, 10
RIGHT_KIND, MISTAKE = 1 / 3, 1 / 8
UNFINISHED = -5.0
"""Reward, in nats, of a thought that does not come to its `#`."""
SPECIALS = ("<pad>", "<end>", "<unk>", "=", "#")
VOCABULARY = {token: number for number, token in enumerate((*SPECIALS, *map(str, range(BASE))))}
CHAT = (
    "{% for message in messages %}{{ message['content'] }}"
    "{{ '=' if message['role'] == 'user' else '<end>' }}{% endfor %}"
)


def answer_to(prompt: str) -> str:
    return str(sum(map(int, prompt)) % BASE)


def gold(prompt: str, response: str) -> dict[str, float]:
    """Right where the response has one `#` and only the sum after it."""
    thought, mark, answer = response.partition("#")
    right = bool(mark) and answer == answer_to(prompt)
    sums = np.cumsum([int(digit) for digit in prompt]) % BASE
    return {
        "goal": float(right),
        "running_sums": float(thought == "".join(map(str, sums))),
        "thought_length": float(len(thought)),
    }


def draw_prompts(rng: Generator, part: Part, count: int) -> list[str]:
    """`count` different prompts of a part: by the sum of the digits times their places, a tenth each is held out."""
    found: dict[str, None] = {}
    while len(found) < count:
        digits = rng.integers(BASE, size=DIGITS)
        place = int(digits @ np.array([3, 17, 29, 53, 71, 97, 101, 113])) % 10
        if part == ("test" if place == 0 else "validation" if place == 1 else "train"):
            found["".join(map(str, digits))] = None
    return list(found)


def _examples(prompts: Sequence[str]) -> list[dict[str, str]]:
    return [{"prompt": prompt, "completion": f"#{answer_to(prompt)}"} for prompt in prompts]


@cache
def questions(part: Part) -> list[dict[str, str]]:
    return _examples(draw_prompts(default_rng([0, 1]), part, 256))


def write_seed(folder: Path, seed: int) -> None:
    """64 demonstrations, 16 held out; no further prompts."""
    rows = _examples(draw_prompts(default_rng([seed, 2]), "train", 80))
    write_examples(folder / DEMONSTRATIONS, rows[:64])
    write_examples(folder / HELDOUT, rows[64:])
    (folder / PROMPTS).write_text("\n".join(row["prompt"] for row in rows[:64]) + "\n", encoding="utf-8")


def start_responses(rng: Generator, digits: Any) -> Any:
    """(N, DIGITS) -> (N, DIGITS + 1): what the start model reads as thought and answer."""
    count = len(digits)
    steps = digits + np.where(rng.random(digits.shape) < MISTAKE, rng.integers(1, BASE, size=digits.shape), 0)
    sums = steps.cumsum(axis=1) % BASE
    kinds = [digits, digits[:, ::-1], rng.integers(BASE, size=digits.shape)]
    other = np.stack(kinds)[rng.integers(len(kinds), size=count), np.arange(count)]
    own = rng.random(count) < RIGHT_KIND
    thoughts = np.where(own[:, None], sums, other)
    answers = np.where(own, sums[:, -1], rng.integers(BASE, size=count))
    return np.concatenate([thoughts, answers[:, None]], axis=1)


def pretrain(folder: Path, steps: int = 2500, batch_size: int = 128, rate: float = 3e-3) -> None:
    """The start model, by a plain loop."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(VOCABULARY), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=1024, tie_word_embeddings=False,
            bos_token_id=None, eos_token_id=VOCABULARY["<end>"], pad_token_id=VOCABULARY["<pad>"],
        )
    )  # fmt: skip
    rng = default_rng([0, 3])
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    zero, one = VOCABULARY["0"], np.ones((batch_size, 1), dtype=np.int64)
    for step in range(steps):
        digits = rng.integers(BASE, size=(batch_size, DIGITS))
        written = start_responses(rng, digits) + zero
        sides = [digits + zero, one * VOCABULARY["="], written[:, :-1], one * VOCABULARY["#"], written[:, -1:]]
        ids = torch.from_numpy(np.concatenate([*sides, one * VOCABULARY["<end>"]], axis=1))
        losses = cross_entropy(model(input_ids=ids[:, :-1]).logits.transpose(1, 2), ids[:, 1:], reduction="none")
        loss = losses[:, DIGITS:].mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 250 == 0 or step == steps - 1:
            print(f"{step + 1}/{steps}: {loss:.3f} nats a token", flush=True)
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="<unk>", chat_template=CHAT
    ).save_pretrained(folder)


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
    return Found({"goal": float(np.mean(right)), "temperature": setting["temperature"]}, 0.0, answers=setting["n"])


WORLD = World("answers", pretrain, write_seed, questions, gold, longest=LONGEST_THOUGHT + 2)
TEMPERATURES = (1.0, 0.6, 0.3)
LADDER = Ladder(rates=(1e-3, 3e-3), passes=(5, 20, 40), temperatures=TEMPERATURES)
STEPS, ROUNDS, RATES = (50, 100, 150), (2, 4, 8, 24), (3e-4, 1e-3)
MOST_SECONDS = 5.0


def quick(row: Row, start: Row) -> bool:
    return row.seconds <= MOST_SECONDS


def _star(name: str, *, filtered: bool) -> Family:
    def trained(bench: Bench, setting: Setting) -> Trained:
        return star(bench, setting["rate"], ROUNDS, filtered=filtered)[setting["rounds"]]

    return Family(name, "control", grid(rate=RATES, rounds=ROUNDS, temperature=TEMPERATURES), measured(trained))


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
        _star("SFT, own thoughts", filtered=False),
        _star("STaR filter", filtered=True),
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
