"""On-policy batches: how they are cut, that they are drawn on policy, and each number in their files worked out."""

import itertools
import json
import math
import random
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.rft_runs import config, make_world
from torch import Tensor
from transformers import AutoModelForCausalLM, TrainerCallback

from demotune import DemotuneError, RFTConfig, run
from demotune.common.files import read_rows
from demotune.models.logprobs import naive_response_logps
from demotune.training.microbatches import in_passes
from demotune.training.objectives import PolicyObjective
from demotune.training.phases.policy import Limits, guard
from demotune.training.rollouts import RolloutPlan, Rollouts
from demotune.training.trainer import EarlyStop
from demotune.training.values import ValueSums, explained_variance, predict

# How a batch becomes optimizer steps.


def layout(
    responses: int, minis: int, size: int, generations: int = 1, processes: int = 1, **fields: Any
) -> RolloutPlan:
    wanted = RFTConfig(
        output="x",
        prompts_per_batch=responses // generations,
        num_generations=generations,
        advantage="gae",
        num_mini_batches=minis,
        per_device_train_batch_size=size,
        **{"policy_batches": 2, **fields},
    )
    return RolloutPlan.of(wanted, 100, processes)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_every_response_once_per_pass_in_equal_steps(processes: int) -> None:
    """All layouts up to 24 responses: equal mini-batches, full use of the processes, no micro-batch above its size."""
    counted = 0
    for responses, minis, size in itertools.product(range(1, 25), range(1, 9), range(1, 10)):
        if responses % minis or responses // minis < processes:
            continue
        counted += 1
        found = layout(responses, minis, size, processes=processes, num_iterations=3)
        units = found.units(seed=responses)
        assert sorted(row for mini in units for unit in mini for row in unit) == list(range(responses))
        assert [sum(map(len, mini)) for mini in units] == [responses // minis] * minis
        assert {len(mini) for mini in units} == {found.microbatches}
        assert found.microbatches % processes == 0
        sizes = {len(unit) for mini in units for unit in mini}
        per_step, fitting = responses // minis, -(-responses // minis // (size * processes)) * processes
        # Where so few responses cannot be shared evenly otherwise, a micro-batch is one larger.
        assert 1 <= min(sizes) <= max(sizes) <= (size if fitting <= per_step else size + 1)
        assert max(sizes) - min(sizes) <= 1
        assert found.steps == 2 * 3 * minis
        assert found.microbatches_per_batch == 3 * minis * found.microbatches
    assert counted > 100


def test_layouts_by_hand() -> None:
    assert layout(12, 2, 4) == RolloutPlan(
        responses=12, generations=1, mini_batches=2, microbatches=2, iterations=1, batches=2
    )
    assert layout(64, 1, 8).microbatches == 8
    assert layout(20, 2, 4).microbatches == 3  # 10 responses: 3, 4 and 3
    assert layout(20, 2, 4, processes=2).microbatches == 4  # two for each process: 2 and 3 responses
    assert layout(12, 2, 4, processes=2).microbatches == 2
    assert (
        layout(3, 1, 1, processes=2).microbatches == 2
    )  # one process has two responses at once: a third could not be shared
    with pytest.raises(DemotuneError, match=r"1 responses of an optimizer step cannot be shared by 2 processes; raise"):
        layout(4, 4, 8, processes=2)


@pytest.mark.parametrize(
    ("prompts", "fields", "batches"),
    [
        (100, {"policy_epochs": 1.0}, 6),  # 6.25 batches of 16
        (104, {"policy_epochs": 1.0}, 6),  # 6.5: to even
        (105, {"policy_epochs": 1.0}, 7),
        (100, {"policy_epochs": 0.01}, 1),
        (100, {"policy_epochs": 5.0, "policy_batches": 3}, 3),
    ],
)
def test_how_many_batches(prompts: int, fields: dict[str, Any], batches: int) -> None:
    assert RolloutPlan.of(RFTConfig(output="x", **fields), prompts, processes=1).batches == batches


def test_responses_of_one_prompt_stand_together() -> None:
    """Six prompts with four responses each, in micro-batches of eight: two whole prompts, whatever the seed."""
    for seed in range(5):
        minis = layout(24, 1, 8, generations=4).units(seed)
        assert [sorted({row // 4 for row in unit}) for unit in minis[0]] != [[0, 1], [2, 3], [4, 5]] or seed
        for unit in minis[0]:
            assert Counter(row // 4 for row in unit) == {row // 4: 4 for row in unit}


def test_another_seed_is_another_cut() -> None:
    one, same, other = (layout(24, 4, 3).units(seed) for seed in (0, 0, 1))
    assert one == same != other


def test_prompts_come_in_passes() -> None:
    """Eleven prompts of four: two whole passes, each in an order of its own, and a begun one."""
    prompts = [(2,), (3,), (4,), (5,)]
    found = in_passes(prompts, 11, random.Random(0))
    assert len(found) == 11
    assert sorted(found[:4]) == sorted(found[4:8]) == prompts
    assert len(set(found[8:])) == 3
    assert len({tuple(in_passes(prompts, 4, random.Random(seed))) for seed in range(20)}) > 5


# The coefficient of the KL that follows a target.


@pytest.mark.parametrize(
    ("kl", "factor"),
    [(2.2, 1.01), (1.8, 0.99), (2.0, 1.0), (50.0, 1.02), (0.0, 0.98), (-3.0, 0.98)],
)
def test_beta_follows_the_kl(kl: float, factor: float, tmp_path: Path) -> None:
    """Target 2 nats: a tenth of the relative error, which counts up to 0.2 either way."""
    (tmp_path / "0003.json").write_text(json.dumps({"objective/kl": kl, "beta": 0.4}))
    state: Any = SimpleNamespace(_folder=tmp_path, _config=RFTConfig(output="x", beta=0.05, kl_target=2.0))
    assert Rollouts._beta(state, 0) == 0.05
    assert Rollouts._beta(state, 4) == pytest.approx(0.4 * factor, rel=1e-12)
    state._config = RFTConfig(output="x", beta=0.05)
    assert Rollouts._beta(state, 4) == 0.05


# Guard rails.

FACTS = {"objective/kl": 10.0, "completions/mean_length": 30.0, "completions/clipped_ratio": 0.5, "reward": 1.5}
WIDE = {"kl": 10.0, "longest": 30.0, "unfinished": 0.5, "reward": 1.5}
OFF = {"kl": 0.0, "longest": 0.0, "unfinished": 0.0, "reward": None}


@pytest.mark.parametrize(
    ("limit", "value", "message"),
    [
        ("kl", 9.9, r"KL to the start model is 10\.0 nats per response, the limit 9\.9 \(--stop-kl\).*--beta"),
        ("longest", 29.0, r"responses have 30 tokens on average, the limit is 29 \(--stop-length-ratio\)"),
        ("unfinished", 0.4, r"50% of the responses are cut off, the limit is 40% \(--stop-unfinished\)"),
        ("reward", 1.25, r"samples earn a reward of 1\.50 on average, the limit is 1\.25.*--stop-reward-margin"),
        ("reward", -0.5, r"the limit is -0\.50"),
        ("reward", 0.0, r"the limit is 0\.00"),
    ],
)
def test_each_guard_stops_above_its_limit_and_names_its_flag(limit: str, value: float, message: str) -> None:
    with pytest.raises(EarlyStop, match=message):
        guard(FACTS, Limits(**{**WIDE, limit: value}))
    with pytest.raises(EarlyStop, match=message):
        guard(FACTS, Limits(**{**OFF, limit: value}))
    guard(FACTS, Limits(**WIDE))  # at the limit is not above it
    guard(dict.fromkeys(FACTS, 1000000000.0), Limits(**OFF))


# Values.


def test_sums_and_head_by_hand() -> None:
    """Two tokens with one state each, 1 and 2, and returns 3 and 5: the line 1 + 2 x, pulled a little to 0."""
    sums = ValueSums.of(torch.tensor([[1.0], [2.0]]), torch.tensor([3.0, 5.0]))
    assert sums.squares.tolist() == [[5.0, 3.0], [3.0, 2.0]]
    assert sums.products.tolist() == [13.0, 8.0]
    assert sums.squares.dtype == sums.products.dtype == torch.float64
    # Ridge 0.001 * (5 + 2) / 2 = 0.0035: [[5.0035, 3], [3, 2.0035]] w = [13, 8], determinant 1.02451225.
    slope, constant = (13 * 2.0035 - 3 * 8) / 1.02451225, (5.0035 * 8 - 3 * 13) / 1.02451225
    assert sums.head().tolist() == pytest.approx([slope, constant], rel=1e-9)
    assert [slope, constant] == pytest.approx([2, 1], abs=0.01)
    assert predict(torch.tensor([[1.0], [-4.0]]), torch.tensor([2.0, 0.5]).double()).tolist() == [2.5, -7.5]


@pytest.mark.parametrize("seed", range(3))
def test_head_equals_ridge_regression_over_faded_batches(seed: int) -> None:
    """Three batches, the older ones weighing 0.81 and 0.9: numpy's least squares over all weighted tokens."""
    rng = np.random.default_rng(seed)
    batches = [(rng.normal(size=(9 + n, 5)), rng.normal(size=9 + n)) for n in range(3)]
    first, *later = [ValueSums.of(torch.tensor(hidden), torch.tensor(returns)) for hidden, returns in batches]
    sums = first
    for newer in later:
        sums = sums.faded(newer)
    weights = np.concatenate([np.full(len(returns), 0.9 ** (2 - n)) for n, (_, returns) in enumerate(batches)]) ** 0.5
    features = np.concatenate([np.c_[hidden, np.ones(len(hidden))] for hidden, _ in batches]) * weights[:, None]
    targets = np.concatenate([returns for _, returns in batches]) * weights
    pull = math.sqrt(1e-3 * (features**2).sum() / 6)
    expected = np.linalg.lstsq(np.r_[features, pull * np.eye(6)], np.r_[targets, np.zeros(6)], rcond=None)[0]
    np.testing.assert_allclose(sums.head().numpy(), expected, rtol=1e-9)


def test_sums_come_back_from_a_file(tmp_path: Path) -> None:
    sums = ValueSums.of(torch.randn(4, 3), torch.randn(4))
    sums.save(tmp_path / "sums.safetensors")
    found = ValueSums.load(tmp_path / "sums.safetensors", torch.device("cpu"))
    assert torch.equal(found.squares, sums.squares)
    assert torch.equal(found.products, sums.products)


@pytest.mark.parametrize(
    ("values", "returns", "expected"),
    [
        ([1.0, 3.0], [1.0, 3.0], 1.0),
        ([11.0, 13.0], [1.0, 3.0], 1.0),  # a constant off is no variance
        ([7.0, 7.0], [1.0, 3.0], 0.0),
        ([1.0, 2.0], [1.0, 3.0], 0.75),  # left over: 0 and 1, variance 1/4 of 1
        ([3.0, 1.0], [1.0, 3.0], -3.0),
        ([1.0, 2.0], [5.0, 5.0], 0.0),
    ],
)
def test_explained_variance(values: list[float], returns: list[float], expected: float) -> None:
    assert explained_variance(torch.tensor(values), torch.tensor(returns)) == pytest.approx(expected)


# Whole runs: what lies in rollouts/ against plain transformers and arithmetic.

CASES: dict[str, dict[str, Any]] = {
    "rloo": {"missing_eos_penalty": 0.7, "kl_estimator": "k3", "beta": 0.3},
    "rloo whitened and clipped": {"whiten_rewards": True, "reward_clip": 0.8, "missing_eos_penalty": 0.2},
    "group": {"advantage": "group", "reward_clip": 0.05, "beta": 0.5},
    "gae": {"advantage": "gae", "lam": 0.9, "beta": 0.2, "whiten_rewards": True, "kl_target": 0.1},
    "gae without lambda": {"advantage": "gae", "num_generations": 1, "prompts_per_batch": 8, "kl_estimator": "k3"},
}


class Snapshots(TrainerCallback):
    """The policy's weights after each of its updates, by (stage, step)."""

    def __init__(self) -> None:
        self.stage = -1
        self.found: dict[tuple[int, int], dict[str, Tensor]] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.stage += type(kwargs["model"]).__name__.endswith("ForCausalLM")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if type(kwargs["model"]).__name__.endswith("ForCausalLM"):
            copies = {name: value.detach().clone() for name, value in kwargs["model"].state_dict().items()}
            self.found[self.stage, state.global_step] = copies


class Run:
    """A finished run with two stages of three batches, two passes of two mini-batches over each."""

    steps_per_batch = 4

    def __init__(self, place: Path, name: str) -> None:
        snapshots = Snapshots()
        fields = {"num_iterations": 2, "num_mini_batches": 2, "policy_batches": 3, "num_generations": 4, **CASES[name]}
        self.config = config(place, name.replace(" ", "-"), **fields)
        self.folder = run(self.config, callbacks=[snapshots]).run_folder
        self.start, self.snapshots = place / "start", snapshots.found

    def batch(self, stage: int, number: int) -> list[dict[str, Any]]:
        return read_rows(self.folder / "stages" / f"{stage:02d}" / "rollouts" / f"{number:04d}.jsonl.gz")

    def facts(self, stage: int, number: int) -> dict[str, float]:
        file = self.folder / "stages" / f"{stage:02d}" / "rollouts" / f"{number:04d}.json"
        return dict(json.loads(file.read_text()))

    def policy_of(self, stage: int, number: int) -> torch.nn.Module:
        """The policy that must have drawn a batch: the stage's start, or as the last update before it left it."""
        folder = self.folder / "stages" / f"{stage - 1:02d}" / "model" if stage else self.start
        policy = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
        if number:
            policy.load_state_dict(self.snapshots[stage, number * self.steps_per_batch])
        return policy


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("rollouts"))


@pytest.fixture(scope="module")
def runs(place: Path) -> dict[str, Run]:
    return {name: Run(place, name) for name in CASES}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, runs: dict[str, Run]) -> Run:
    return runs[request.param]


def test_the_runs_have_what_is_to_be_told_apart(runs: dict[str, Run]) -> None:
    """Uneven responses, finished and cut off; policies that moved; numbers that differ between the cases."""
    rows = [row for number in range(3) for row in runs["rloo"].batch(0, number)]
    assert {row["response"]["finished"] for row in rows} == {True, False}
    assert len({len(row["response"]["ids"]) for row in rows}) > 3
    assert abs(runs["rloo"].facts(0, 2)["objective/kl"]) > 0.05
    assert len({json.dumps(case.batch(0, 2)) for case in runs.values()}) == len(CASES)


@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_batches_are_drawn_by_the_policy_as_the_update_before_left_it(case: Run, stage: int, number: int) -> None:
    """`logps` are its log-probabilities, row by row without padding, `ref_logps` the start model's; 1e-4 nats."""
    policy, reference = case.policy_of(stage, number), case.policy_of(0, 0)
    stale = case.policy_of(stage, number - 1) if number else None
    furthest = 0.0
    for row in case.batch(stage, number):
        both = row["prompt_ids"], row["response"]["ids"]
        with torch.no_grad():
            logps, ref_logps = (naive_response_logps(model, *both).tolist() for model in (policy, reference))
            furthest = max(furthest, *(
                abs(old - new) for old, new in zip(naive_response_logps(stale, *both).tolist(), logps, strict=True)
            )) if stale else furthest  # fmt: skip
        assert row["logps"] == pytest.approx(logps, abs=1e-4)
        assert row["ref_logps"] == pytest.approx(ref_logps, abs=1e-4)
    assert number == 0 or furthest > 1e-3, "the update before this batch is too small to be seen"


@pytest.mark.parametrize("number", [0, 2])
def test_responses_end_at_the_end_token_or_the_limit(case: Run, number: int) -> None:
    for row in case.batch(1, number):
        ids, finished = row["response"]["ids"], row["response"]["finished"]
        assert 1 not in ids[:-1]
        assert finished == (ids[-1] == 1)
        assert finished or len(ids) == 6


def test_each_prompt_has_its_generations_side_by_side(case: Run, place: Path) -> None:
    """Batches of a stage go through the prompts of its slice in passes; no held-out prompt is among them."""
    samples = [read_rows(case.folder / "stages" / stage / "samples.jsonl.gz") for stage in ("00", "01")]
    heldout = {tuple(row["prompt_ids"]) for row in samples[0] if row["heldout"]}
    generations = case.config.num_generations
    for stage, rows in enumerate(samples):
        own = Counter(tuple(row["prompt_ids"]) for row in rows if not row["heldout"])
        drawn = [tuple(row["prompt_ids"]) for number in range(3) for row in case.batch(stage, number)]
        groups = [drawn[start : start + generations] for start in range(0, len(drawn), generations)]
        assert all(len(set(group)) == 1 for group in groups)
        order = [group[0] for group in groups]
        whole = len(own) * (len(order) // len(own))
        assert Counter(order[:whole]) == Counter({prompt: count * (whole // len(own)) for prompt, count in own.items()})
        assert Counter(order[whole:]) <= own
        assert not heldout & set(drawn)


def kl_by_hand(row: dict[str, Any], estimator: str) -> list[float]:
    ratios = [logp - ref_logp for logp, ref_logp in zip(row["logps"], row["ref_logps"], strict=True)]
    return ratios if estimator == "k1" else [math.exp(-ratio) - 1 + ratio for ratio in ratios]


def scores_by_hand(rows: Sequence[dict[str, Any]], wanted: RFTConfig) -> list[float]:
    """The reward, less the penalty of a cut-off response; standardised; clipped."""
    scores = [row["reward"] - (0 if row["response"]["finished"] else wanted.missing_eos_penalty) for row in rows]
    if wanted.whiten_rewards:
        mean, spread = statistics.fmean(scores), statistics.stdev(scores)
        scores = [(score - mean) / spread for score in scores]
    clip = wanted.reward_clip
    return scores if clip is None else [max(-clip, min(clip, score)) for score in scores]


@pytest.mark.parametrize("name", [name for name in CASES if "gae" not in name])
@pytest.mark.parametrize("number", [0, 2])
def test_advantages_of_responses_by_hand(name: str, number: int, runs: dict[str, Run]) -> None:
    case = runs[name]
    wanted, rows = case.config, case.batch(1, number)
    paid = [
        score - wanted.beta * sum(kl_by_hand(row, wanted.kl_estimator))
        for score, row in zip(scores_by_hand(rows, wanted), rows, strict=True)
    ]
    size = wanted.num_generations
    for start in range(0, len(rows), size):
        group = paid[start : start + size]
        for row, own in zip(rows[start : start + size], group, strict=True):
            if wanted.advantage == "rloo":
                expected = [own - (sum(group) - own) / (size - 1)]
            else:
                expected = [(own - statistics.fmean(group)) / (statistics.stdev(group) + 1e-4)] * len(row["logps"])
            assert row["advantages"] == pytest.approx(expected, abs=2e-4 if wanted.advantage == "group" else 1e-5)


def states(policy: torch.nn.Module, row: dict[str, Any]) -> np.ndarray:
    """Last hidden states of which each response token is predicted, and a constant; (L, D + 1)."""
    ids = torch.tensor([row["prompt_ids"] + row["response"]["ids"]])
    with torch.no_grad():
        hidden = policy.base_model(ids).last_hidden_state[0, len(row["prompt_ids"]) - 1 : -1].double().numpy()
    return np.c_[hidden, np.ones(len(hidden))]


@pytest.mark.parametrize("name", [name for name in CASES if "gae" in name])
def test_advantages_of_tokens_by_hand(name: str, runs: dict[str, Run]) -> None:
    """GAE from its definition, with values by ridge regression on this batch (the first) or the faded ones before."""
    case = runs[name]
    wanted, squares, products = case.config, np.zeros((17, 17)), np.zeros(17)
    for number in range(3):
        rows, facts, policy = case.batch(0, number), case.facts(0, number), case.policy_of(0, number)
        features = [states(policy, row) for row in rows]
        paid = [[-facts["beta"] * kl for kl in kl_by_hand(row, wanted.kl_estimator)] for row in rows]
        for tokens, score in zip(paid, scores_by_hand(rows, wanted), strict=True):
            tokens[-1] += score
        returns = [[sum(tokens[t:]) for t in range(len(tokens))] for tokens in paid]
        everything, targets = np.concatenate(features), np.concatenate(returns)
        own_squares, own_products = everything.T @ everything, everything.T @ targets
        before = (squares, products) if number else (own_squares, own_products)
        head = np.linalg.solve(before[0] + 1e-3 * np.trace(before[0]) / 17 * np.eye(17), before[1])
        squares, products = 0.9 * squares + own_squares, 0.9 * products + own_products
        for row, tokens, feature in zip(rows, paid, features, strict=True):
            values = [*(feature @ head), 0.0]
            deltas = [tokens[t] + values[t + 1] - values[t] for t in range(len(tokens))]
            expected = [
                sum(wanted.lam ** (later - t) * deltas[later] for later in range(t, len(deltas)))
                for t in range(len(deltas))
            ]
            assert row["advantages"] == pytest.approx(expected, abs=1e-3)
        wrong = targets - everything @ head
        assert facts["loss/value_avg"] == pytest.approx(0.5 * float(np.mean(wrong**2)), rel=1e-2)
        assert facts["val/explained_variance"] == pytest.approx(1 - wrong.var() / targets.var(), abs=1e-2)


def test_facts_by_hand(case: Run) -> None:
    """Under TRL's names: `kl` per token, `objective/kl` per response, rewards before any penalty."""
    for stage, number in itertools.product((0, 1), range(3)):
        rows, facts = case.batch(stage, number), case.facts(stage, number)
        sums = [sum(kl_by_hand(row, "k1")) for row in rows]
        lengths = [len(row["response"]["ids"]) for row in rows]
        expected = {
            "reward": statistics.fmean(row["reward"] for row in rows),
            "reward_std": statistics.stdev(row["reward"] for row in rows),
            "kl": sum(sums) / sum(lengths),
            "objective/kl": statistics.fmean(sums),
            "completions/mean_length": statistics.fmean(lengths),
            "completions/clipped_ratio": statistics.fmean(not row["response"]["finished"] for row in rows),
        }
        assert {name: facts[name] for name in expected} == pytest.approx(expected, abs=1e-5)
        values = {"loss/value_avg", "val/explained_variance"} if case.config.advantage == "gae" else set()
        assert facts.keys() == expected.keys() | {"beta"} | values


def test_beta_over_a_stage(case: Run) -> None:
    for stage in (0, 1):
        expected = case.config.beta
        for number in range(3):
            assert case.facts(stage, number)["beta"] == pytest.approx(expected, rel=1e-12)
            if case.config.kl_target:
                error = case.facts(stage, number)["objective/kl"] / case.config.kl_target - 1
                expected *= 1 + 0.1 * max(-0.2, min(0.2, error))


def test_records_hold_the_facts_of_their_batch(case: Run) -> None:
    """Each of a batch's four steps repeats its facts; the first step of a batch has a ratio of 1, others not all."""
    rows = [row for row in read_rows(case.folder / "metrics.jsonl") if row["phase"] == "policy" and "loss" in row]
    assert len(rows) == 2 * 3 * case.steps_per_batch
    for place, row in enumerate(rows):
        stage, step = divmod(place, 12)
        assert (row["stage"], row["step"]) == (stage, step + 1)
        facts = case.facts(stage, step // case.steps_per_batch)
        assert {name: row[name] for name in facts} == facts
        if step % case.steps_per_batch == 0:
            assert row["val/ratio"] == pytest.approx(1, abs=1e-5)
    assert max(abs(row["val/ratio"] - 1) for row in rows) > 1e-3


@pytest.mark.parametrize(("minis", "size", "cut"), [(2, 4, [3, 3]), (1, 5, [4, 4, 4]), (3, 8, [4])])
def test_what_is_trained_is_each_response_once_per_pass(
    minis: int, size: int, cut: list[int], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve responses, two passes: the micro-batches that reach the objective, and their advantages."""
    seen: list[list[tuple[Any, ...]]] = []
    collate = PolicyObjective.collate

    def noting(self: PolicyObjective, records: Any) -> Any:
        seen.append([(record.prompt_ids, record.response.ids, record.logps, record.advantages) for record in records])
        return collate(self, records)

    monkeypatch.setattr(PolicyObjective, "collate", noting)
    sizes = {"num_mini_batches": minis, "per_device_train_batch_size": size, "num_iterations": 2}
    folder = run(config(place, f"seen-{minis}", stages=1, num_generations=4, **sizes)).run_folder
    per_step = -(-12 // minis // size)
    assert len(seen) == 2 * 2 * minis * per_step
    for number in range(2):
        rows = [
            (tuple(row["prompt_ids"]), tuple(row["response"]["ids"]), tuple(row["logps"]), tuple(row["advantages"]))
            for row in read_rows(folder / "stages" / "00" / "rollouts" / f"{number:04d}.jsonl.gz")
        ]
        for one in (0, 1):
            start = (2 * number + one) * minis * per_step
            units = seen[start : start + minis * per_step]
            assert Counter(record for unit in units for record in unit) == Counter(rows)
            assert [len(unit) for unit in units] == cut * minis
            steps = [units[begin : begin + per_step] for begin in range(0, len(units), per_step)]
            assert [sum(map(len, step)) for step in steps] == [12 // minis] * minis


def test_one_response_is_a_batch(place: Path) -> None:
    """Nothing to compare it with: its reward has no spread, and the file is JSON that everyone reads."""
    fields = {"prompts_per_batch": 1, "num_generations": 1, "advantage": "gae", "whiten_rewards": True, "stages": 1}
    folder = run(config(place, "single", **fields)).run_folder

    def refuse(constant: str) -> float:
        raise ValueError(constant)

    text = (folder / "stages" / "00" / "rollouts" / "0000.json").read_text()
    assert json.loads(text, parse_constant=refuse)["reward_std"] == 0.0
