"""Whole runs of RFT: what lies in the folder and is true, LoRA on shared weights, guards, prompts, command line."""

import copy
import gc
import json
import os
import random
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from micro import letter_tokenizer, tiny_lm
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, TrainerCallback
from typer.testing import CliRunner

import demotune
from demotune import (
    DemotuneError,
    IRFTConfig,
    RFTConfig,
    RunResult,
    SFTConfig,
    SPINConfig,
    resume,
    run,
)
from demotune.cli import main as cli
from demotune.common.files import read_json, read_rows
from demotune.common.statistics import share_interval
from demotune.models import reward as reward_models
from demotune.models.logprobs import naive_response_logps
from demotune.models.policy import attach_adapter, load_policy, lora_config, save_policy, weight_sharing_base
from demotune.records import Response
from demotune.sampling import SamplingOptions, sample_responses
from demotune.training import heldout_rows
from demotune.training.phases import policy as policy_phase
from demotune.training.phases.policy import Limits
from demotune.training.setup import derive_seed

LETTERS = "abcdefghij"  # with padding and end token, the twelve ids of these models
TEMPLATE = "a{prompt}"
FIELDS: dict[str, Any] = {
    "template": TEMPLATE,
    "max_length": 24,
    "max_new_tokens": 6,
    "learning_rate": 1e-2,
    "reward_learning_rate": 1e-2,
    "stages": 2,
    "reward_epochs": 3.0,
    "reward_eval_steps": 2,
    "per_device_train_batch_size": 4,
    "prompts_per_batch": 3,
    "num_generations": 2,
    "policy_batches": 2,
    "eval_share": 0.25,
    "stop_kl": 0.0,
    "stop_length_ratio": 0.0,
    "stop_unfinished": 0.0,
    "stop_reward_margin": 0.0,
    "bf16": False,
}


def make_world(folder: Path) -> Path:
    """A random policy of which about two thirds of the samples end by themselves, and 24 demonstrations."""
    save_policy(tiny_lm(seed=0, vocabulary=12), letter_tokenizer(12), folder / "start")
    rng = random.Random(0)
    prompts = sorted({word(rng, 1, 5) for _ in range(40)})[:24]
    rows = [{"prompt": prompt, "completion": word(rng, 1, 4)} for prompt in prompts]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def word(rng: random.Random, low: int, high: int) -> str:
    return "".join(rng.choice(LETTERS) for _ in range(rng.randint(low, high)))


def config(place: Path, name: str, **fields: Any) -> RFTConfig:
    where = {"model": str(place / "start"), "data": (str(place / "rows.jsonl"),), "output": str(place / name)}
    return RFTConfig(**{**where, **FIELDS, **fields})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("rft"))


@pytest.fixture(scope="module")
def plain(place: Path) -> RunResult:
    return run(config(place, "plain"))


def state_of(folder: Path, stage: int) -> dict[str, Any]:
    return read_json(folder / "stages" / f"{stage:02d}" / "state.json")


def read(folder: Path, stage: int, name: str) -> list[dict[str, Any]]:
    return read_rows(folder / "stages" / f"{stage:02d}" / name)


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(next(folder.glob("*.safetensors")))


# What a run leaves.


def test_what_lies_in_the_folder(plain: RunResult) -> None:
    root = plain.run_folder
    assert plain.reward_folder == root / "reward"
    assert plain.model_folder == root / "model"
    names = {"config.json", "model.safetensors", "tokenizer.json"}
    assert names <= {file.name for file in (root / "model").iterdir()}
    assert names | {"README.md", "reward.json"} <= {file.name for file in (root / "reward").iterdir()}
    for stage in (0, 1):
        files = {file.name for file in (root / "stages" / f"{stage:02d}").iterdir()}
        start = {"start.jsonl.gz"} if stage == 0 else set()
        results = {"samples.jsonl.gz", "reward", "rewards.jsonl.gz", "rollouts", "model", "check.json", "state.json"}
        assert files == results | {"metrics.jsonl", "reward-metrics.jsonl", "heldout.jsonl.gz"} | start
        rollouts = {file.name for file in (root / "stages" / f"{stage:02d}" / "rollouts").iterdir()}
        assert rollouts == {"0000.json", "0000.jsonl.gz", "0000.sealed", "0001.json", "0001.jsonl.gz", "0001.sealed"}
        start_phase = ["start"] if stage == 0 else []
        assert list(state_of(root, stage)) == ["sample", *start_phase, "reward", "policy", "check"]
    for part in ("model", "reward"):
        last = weights(root / "stages" / "01" / part)
        assert all(torch.equal(value, last[name]) for name, value in weights(root / part).items())
    assert json.loads((root / "summary.json").read_text())["reward_folder"] == str(root / "reward")


def test_stages_chain(plain: RunResult) -> None:
    """Stage 1 samples from the policy that stage 0 published; the KL's reference is the start model in both."""
    first, second = (state_of(plain.run_folder, stage) for stage in (0, 1))
    published = first["policy"]["outputs"]["model"]
    assert {record["policy"] for record in second.values()} == {published}
    assert second["policy"]["reference"] == first["policy"]["reference"] == first["policy"]["policy"] != published


def test_readme_says_what_the_reward_is(plain: RunResult, place: Path) -> None:
    card = (plain.run_folder / "reward" / "README.md").read_text()
    pairs = state_of(plain.run_folder, 1)["reward"]["pairs"]
    for said in (
        f"stage 1, from {pairs} pairs of a demonstration",
        f"Demonstrations: {place / 'rows.jsonl'}",
        f"Start: {place / 'start'}",
        "Reward of a response: the head's number at the end-of-turn token. Link: logistic.",
        "responses that end by themselves only",
        "rendered with the template 'a{prompt}'",
        "AutoModelForSequenceClassification.from_pretrained",
    ):
        assert said in card
    facts = json.loads((plain.run_folder / "reward" / "reward.json").read_text())
    assert facts == {"link": "logistic", "bound": None, "template": TEMPLATE}


def test_metrics_have_trl_names(plain: RunResult) -> None:
    rows = read_rows(plain.run_folder / "metrics.jsonl")
    shared = {"loss", "grad_norm", "learning_rate", "num_tokens", "step", "stage", "phase"}
    rewards = {f"rewards/{name}" for name in ("chosen", "rejected", "accuracies", "margins")}
    on_policy = {"reward", "reward_std", "kl", "objective/kl", "beta", "entropy", "val/ratio"}
    clips = {f"clip_ratio/{name}" for name in ("low_mean", "high_mean", "region_mean")}
    lengths = {"completions/mean_length", "completions/clipped_ratio"}
    for row in rows:
        if row["phase"] == "reward" and "loss" in row:
            assert shared | rewards <= row.keys()
        elif row["phase"] == "reward" and not row.get("finished") and "train_loss" not in row:
            assert {"eval_loss", "eval_rewards/accuracies", "step"} <= row.keys()
        elif row["phase"] == "policy" and "loss" in row:
            assert shared | on_policy | clips | lengths <= row.keys()
            assert "loss/value_avg" not in row
    counts = [
        sum(row["phase"] == phase and name in row for row in rows)
        for phase, name in (("reward", "loss"), ("reward", "eval_loss"), ("policy", "loss"), ("policy", "train_loss"))
    ]
    steps = [state_of(plain.run_folder, stage)["reward"]["steps"] for stage in (0, 1)]
    assert counts[0] == sum(steps)
    assert counts[1] == sum(1 + -(-count // 2) for count in steps)
    assert counts[2] == 4
    with_loss = [row for row in rows if row["phase"] == "policy" and "loss" in row]
    assert [row["step"] for row in with_loss] == [1, 2, 1, 2]


def test_the_first_reward_loss_is_log_two(plain: RunResult) -> None:
    first = next(row for row in read(plain.run_folder, 0, "reward-metrics.jsonl") if "loss" in row)
    assert first["loss"] == pytest.approx(0.6931472, abs=1e-6)
    assert (first["rewards/chosen"], first["rewards/rejected"], first["rewards/margins"]) == (0, 0, 0)


def judge(reward: nn.Module, prompt: list[int], response: list[int]) -> float:
    """What plain transformers says of one row without padding."""
    with torch.no_grad():
        return float(reward(torch.tensor([prompt + response])).logits)


@pytest.mark.parametrize("stage", [0, 1])
def test_every_reward_in_a_file_is_that_of_the_published_model(plain: RunResult, stage: int) -> None:
    folder = plain.run_folder / "stages" / f"{stage:02d}"
    reward = AutoModelForSequenceClassification.from_pretrained(folder / "reward").eval()
    samples = read(plain.run_folder, stage, "samples.jsonl.gz")
    ordered = [*(row for row in samples if not row["heldout"]), *(row for row in samples if row["heldout"])]
    for row, found in zip(ordered, read(plain.run_folder, stage, "rewards.jsonl.gz"), strict=True):
        assert found["key"] == row["key"]
        assert found["heldout"] == row["heldout"]
        assert found["usable"] == (row["finished"] and row["demo_finished"])
        assert found["demo_reward"] == pytest.approx(judge(reward, row["prompt_ids"], row["demo_ids"]), abs=1e-5)
        assert found["sample_reward"] == pytest.approx(judge(reward, row["prompt_ids"], row["sample_ids"]), abs=1e-5)
        assert (found["demo_length"], found["sample_length"]) == (len(row["demo_ids"]), len(row["sample_ids"]))
    for number in (0, 1):
        for row in read(plain.run_folder, stage, f"rollouts/{number:04d}.jsonl.gz"):
            assert row["reward"] == pytest.approx(judge(reward, row["prompt_ids"], row["response"]["ids"]), abs=1e-5)


def wins(pairs: list[tuple[float, float]]) -> float:
    return sum(1.0 if one > other else 0.5 if one == other else 0.0 for one, other in pairs)


@pytest.mark.parametrize("stage", [0, 1])
def test_check_worked_out_anew(plain: RunResult, stage: int) -> None:
    """check.json from the stage's files, its published models and fresh answers, row by row."""
    folder = plain.run_folder / "stages" / f"{stage:02d}"
    check = json.loads((folder / "check.json").read_text())
    assert plain.stages[stage]["check"] == check
    heldout = [row for row in read(plain.run_folder, stage, "samples.jsonl.gz") if row["heldout"]]
    rewards = [row for row in read(plain.run_folder, stage, "rewards.jsonl.gz") if row["heldout"]]
    policy = AutoModelForCausalLM.from_pretrained(folder / "model", attn_implementation="eager").eval()
    reward = AutoModelForSequenceClassification.from_pretrained(folder / "reward").eval()
    with torch.no_grad():
        logps = [naive_response_logps(policy, row["prompt_ids"], row["demo_ids"]) for row in heldout]
    tokens = sum(len(row["demo_ids"]) for row in heldout)
    assert check["nll_per_token"] == pytest.approx(-float(torch.cat(logps).sum()) / tokens, abs=1e-5)

    pairs = [(row["demo_reward"], row["sample_reward"]) for row in rewards if row["usable"]]
    alike = [
        (row["demo_reward"], row["sample_reward"])
        for row in rewards
        if row["usable"]
        and 4 * min(row["demo_length"], row["sample_length"]) >= 3 * max(row["demo_length"], row["sample_length"])
    ]
    assert 0 < len(alike) < len(pairs) < len(heldout) == 9
    for prefix, some in (("", pairs), ("matched_", alike)):
        assert check["reward"][f"{prefix}pairs"] == len(some)
        assert check["reward"][f"{prefix}accuracy"] == asdict(share_interval(wins(some), len(some)))
    assert check["reward"]["margin"] == pytest.approx(sum(one - other for one, other in pairs) / len(pairs))
    assert state_of(plain.run_folder, stage)["reward"]["check"] == check["reward"]

    options = SamplingOptions(max_new_tokens=6, max_length=24, stop_ids=frozenset([1]))
    seed = derive_seed(42, stage, "check")
    answers = [
        next(iter(sample_responses(policy, [row["prompt_ids"]], [number], seed, options, slots=1)))[1]
        for number, row in enumerate(heldout)
    ]
    after = [judge(reward, row["prompt_ids"], list(a.ids)) for row, a in zip(heldout, answers, strict=True)]
    before = [row["sample_reward"] for row in rewards]
    same = [list(answer.ids) == row["sample_ids"] for row, answer in zip(heldout, answers, strict=True)]
    found = sum(0.5 if s else float(now > then) for s, now, then in zip(same, after, before, strict=True))
    assert check["policy"].pop("better") == asdict(share_interval(found, 9))
    assert check["policy"] == pytest.approx(
        {
            "prompts": 9,
            "demo_reward": sum(row["demo_reward"] for row in rewards) / 9,
            "reward_before": sum(before) / 9,
            "reward_after": sum(after) / 9,
            "finished_share": sum(answer.finished for answer in answers) / 9,
            "mean_length": sum(len(answer.ids) for answer in answers) / 9,
        },
        abs=1e-5,
    )


def test_the_same_answers_are_neither_better_nor_worse(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every answer is the one from before, rounding of rewards decides nothing."""
    folder = place / "same-answers"

    def as_before(stage: Any, policy: Any, prompts: Any, **_: Any) -> list[Response]:
        rows = [row for row in read(folder, stage.number, "samples.jsonl.gz") if row["heldout"]]
        return [Response(tuple(row["sample_ids"]), row["finished"]) for row in rows]

    monkeypatch.setattr(heldout_rows, "draw_with", as_before)
    result = run(config(place, "same-answers", reward_learning_rate=3e-2))
    assert [stage["check"]["policy"]["better"]["value"] for stage in result.stages] == [0.5, 0.5]


def test_what_a_stage_says_of_its_reward(plain: RunResult) -> None:
    """Mean rewards in the state are those of held-out pairs that the reward may see."""
    for stage in (0, 1):
        rows = [row for row in read(plain.run_folder, stage, "rewards.jsonl.gz") if row["heldout"] and row["usable"]]
        record = state_of(plain.run_folder, stage)["reward"]
        assert record["on_heldout"] is True
        for side in ("demo_reward", "sample_reward"):
            assert record[side] == pytest.approx(sum(row[side] for row in rows) / len(rows))


TIMES = {"state.json", "metrics.jsonl", "reward-metrics.jsonl"}


def test_same_seed_same_bytes_other_seed_other_bytes(plain: RunResult, place: Path) -> None:
    again, other = (run(config(place, name, seed=seed)) for name, seed in (("again", 42), ("other", 7)))
    files = [file for file in plain.run_folder.glob("stages/**/*") if file.is_file() and file.name not in TIMES]
    assert len(files) > 30
    differing = []
    for file in files:
        inside = file.relative_to(plain.run_folder)
        assert (again.run_folder / inside).read_bytes() == file.read_bytes(), inside
        theirs = other.run_folder / inside
        differing += [inside.name] if not theirs.exists() or theirs.read_bytes() != file.read_bytes() else []
    # The other seed holds out the same rows, so the start model's check alone stays.
    assert {"samples.jsonl.gz", "rewards.jsonl.gz", "0000.jsonl.gz", "0000.json", "check.json"} <= set(differing)
    assert differing.count("model.safetensors") == 4


def test_methods_without_a_reward_model_leave_none(place: Path) -> None:
    names = ("template", "max_length", "learning_rate", "eval_share", "bf16")
    shared = {name: FIELDS[name] for name in names} | {"model": str(place / "start")}
    shared |= {"data": (str(place / "rows.jsonl"),)}
    sampled = {"max_new_tokens": 6, "stages": 1, "steps_per_stage": 1}
    for one in (
        SFTConfig(output=str(place / "sft"), max_steps=1, **shared),
        SPINConfig(output=str(place / "spin"), **sampled, **shared),
        IRFTConfig(output=str(place / "irft"), **sampled, **shared),
    ):
        result = run(one)
        assert result.reward_folder is None
        assert not (result.run_folder / "reward").exists()
        assert not [*result.run_folder.glob("stages/*/reward*"), *result.run_folder.glob("stages/*/rollouts*")]
        phases = (
            ["start", "train", "check"] if one.method == "sft" else ["sample", "start", "reference", "train", "check"]
        )
        assert list(state_of(result.run_folder, 0)) == phases


@pytest.mark.parametrize(
    "choice",
    [
        {"advantage": "group"},
        {"advantage": "gae"},
        {"beta": 0.5},
        {"kl_estimator": "k3", "beta": 0.5, "policy_batches": 3},
        {"kl_target": 0.01, "beta": 0.5, "policy_batches": 3},
        {"num_iterations": 2},
        {"num_mini_batches": 2},
        {"missing_eos_penalty": 0.0},
        {"whiten_rewards": True},
        {"reward_bound": 1.0},
        {"reward_bound": 1.0, "reward_link": "linear"},
        {"center_rewards_coefficient": 1.0},
        {"finished_only": False},
        {"reward_frozen_layers": 1},
        {"slices": "all"},
        {"policy_epochs": 2.0, "policy_batches": None},
        {"gradient_accumulation_steps": 2, "activation_checkpointing": True},
        {"dtype": "bfloat16", "bf16": True},
    ],
    ids=str,
)
def test_each_choice_changes_the_policy(choice: dict[str, Any], plain: RunResult, place: Path) -> None:
    name = "-".join(f"{key}-{value}" for key, value in choice.items())
    changed = weights(run(config(place, name, **choice, stages=1)).model_folder)
    expected = weights(plain.run_folder / "stages" / "00" / "model")
    assert any(not torch.equal(value.float(), expected[key].float()) for key, value in changed.items())


# LoRA: one base in memory, and nothing computed differently for it.


def adapted(seed: int = 0) -> PeftModel:
    """A policy whose adapter is far from nothing."""
    policy = attach_adapter(tiny_lm(seed=seed, vocabulary=12), lora_config(4, 8, ("all-linear",)), seed)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    return policy


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return cast(Tensor, model(torch.arange(2, 12).view(2, 5)).logits)


def test_the_shared_base_is_the_very_weights_without_the_adapter() -> None:
    bare, policy = logits(tiny_lm(vocabulary=12)), adapted()
    before = logits(policy)
    base = weight_sharing_base(policy)
    assert torch.equal(logits(base), bare)
    assert torch.equal(logits(policy), before)
    assert not torch.allclose(before, bare, atol=0.1)
    own = {name.replace(".base_layer", ""): weight for name, weight in policy.get_base_model().named_parameters()}
    names = {name for name, _ in tiny_lm(vocabulary=12).named_parameters()}
    assert {name for name, _ in base.named_parameters()} == names
    for name, weight in base.named_parameters():
        assert weight.data_ptr() == own[name].data_ptr()
    with torch.no_grad():  # one memory: what changes the base changes the policy
        own["lm_head.weight"].zero_()
    assert not logits(base).any()
    assert not logits(policy).any()


def test_a_lora_run_on_shared_weights_equals_one_on_copies(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adapters of policy and reward, samples, rewards and rollouts of both stages, bit for bit."""
    fields = {"use_peft": True, "lora_r": 4, "advantage": "gae"}
    shared = run(config(place, "lora-shared", **fields)).run_folder
    copies = 0

    def copying(policy: PeftModel) -> Any:
        nonlocal copies
        copies += 1
        return copy.deepcopy(policy).unload()

    for module in (policy_phase, reward_models):
        monkeypatch.setattr(module, "weight_sharing_base", copying)
    copied = run(config(place, "lora-copied", **fields)).run_folder
    assert copies >= 2 * 3  # of each stage: the reward that is trained, the one that scores, the reference
    files = [file for file in shared.glob("stages/**/*") if file.is_file() and file.name not in TIMES]
    kinds = {file.name for file in files}
    assert {"adapter_model.safetensors", "0001.jsonl.gz", "rewards.jsonl.gz", "samples.jsonl.gz"} <= kinds
    for file in files:
        assert (copied / file.relative_to(shared)).read_bytes() == file.read_bytes(), file
    moved = weights(shared / "model")
    assert max(float(value.abs().max()) for name, value in moved.items() if "lora_B" in name) > 1e-3


class ParametersInMemory(TrainerCallback):
    """Bytes of all parameters of all models, each storage once, while the policy is trained."""

    def __init__(self) -> None:
        self.known, self.bytes = set(_parameters()), 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if kwargs["model"].peft_config["default"].task_type == "CAUSAL_LM":
            self.bytes = sum(size for place, size in _parameters().items() if place not in self.known)


def _parameters() -> dict[int, int]:
    storages = [thing.untyped_storage() for thing in gc.get_objects() if type(thing) is nn.Parameter]
    return {storage.data_ptr(): storage.nbytes() for storage in storages}


def test_a_lora_run_holds_one_base(place: Path) -> None:
    """In policy steps: the base, the adapter of the policy and that of the reward with its head (and peft's copy)."""
    gc.collect()
    watch = ParametersInMemory()
    stages = {"stages": 2, "use_peft": True, "lora_r": 4}
    folder = run(config(place, "lora-memory", **stages), callbacks=[watch]).run_folder
    base = sum(weight.nbytes for weight in tiny_lm(vocabulary=12).parameters())
    adapter = sum(weight.nbytes for weight in weights(folder / "model").values())
    reward = sum(weight.nbytes for weight in weights(folder / "reward").values())
    head = 16 * 4
    assert reward == adapter + head
    assert watch.bytes == base + adapter + reward + head


def save_adapter(place: Path) -> Path:
    """A LoRA adapter on the start model, far from it."""
    base = load_policy(place / "start", dtype="float32", attn_implementation="eager", device=torch.device("cpu"))
    torch.manual_seed(0)
    settings = LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    policy = get_peft_model(cast(Any, base), settings)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    save_policy(cast(PeftModel, policy), letter_tokenizer(12), place / "start-adapter")
    return place / "start-adapter"


def test_a_start_model_that_is_an_adapter_is_the_reference_and_the_reward_s_start(place: Path) -> None:
    start = save_adapter(place)
    fields = {"model": str(start), "use_peft": True, "reward_learning_rate": 1e-12}
    folder = run(config(place, "from-adapter", **fields)).run_folder
    bare, base = (AutoModelForCausalLM.from_pretrained(place / "start").eval() for _ in range(2))
    reference = PeftModel.from_pretrained(base, str(start)).eval()
    furthest = 0.0
    for stage in (0, 1):
        for row in read(folder, stage, "rollouts/0001.jsonl.gz"):
            both = row["prompt_ids"], row["response"]["ids"]
            with torch.no_grad():
                expected, other = (naive_response_logps(model, *both) for model in (reference, bare))
            assert row["ref_logps"] == pytest.approx(expected.tolist(), abs=1e-4)
            furthest = max(furthest, float((expected - other).abs().max()))
    assert furthest > 0.1
    begun, reward, trained = (weights(at) for at in (start, folder / "reward", folder / "model"))
    layers = [name for name in begun if "lora" in name]
    assert len(layers) == 2 * 2 * 3
    assert all(torch.allclose(reward[name], begun[name], atol=1e-9) for name in layers)
    assert all(not torch.allclose(trained[name], begun[name], atol=1e-4) for name in layers)
    assert reward["base_model.model.score.weight"].abs().max() < 1e-9


# Guard rails in a run.


def test_a_guard_ends_a_stage_and_the_run_goes_on(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rate far too high and almost no KL allowed: both stages end before their second or third update."""
    monkeypatch.setenv("COLUMNS", "400")
    result = run(config(place, "stopped", learning_rate=0.3, stop_kl=0.5, policy_batches=6))
    shown = " ".join(capsys.readouterr().out.split())
    for number, stage in enumerate(result.stages):
        policy = stage["phases"]["policy"]
        assert policy["stopped"].startswith("the KL to the start model is ")
        assert f"{policy['last']['objective/kl']:.1f} nats per response, the limit 0.5" in policy["stopped"]
        assert policy["last"]["objective/kl"] > 0.5 >= policy["first"]["objective/kl"] * (number == 0)
        assert policy["steps"] == policy["batches"] - 1 < 5  # the batch above the limit is drawn, not trained on
        assert (
            len(list((result.run_folder / "stages" / f"{number:02d}" / "rollouts").glob("*.gz"))) == policy["batches"]
        )
        assert f"stage {number}: policy steps ended at batch {policy['batches']}: the KL" in shown
        assert f"stage {number}: policy steps were stopped: the KL" in shown
        assert f"KL to the start model {policy['last']['objective/kl']:.1f} nats a response" in shown
        assert stage["check"]["policy"]["prompts"] == 9
    assert result.stages[0]["phases"]["policy"]["steps"] > 0
    published = weights(result.run_folder / "stages" / "00" / "model")
    assert any(not torch.equal(value, published[name]) for name, value in weights(place / "start").items())
    # Stage 1 begins above the limit: it takes no step and publishes what it began with.
    assert all(torch.equal(value, published[name]) for name, value in weights(result.model_folder).items())


def test_steps_of_a_stopped_stage_are_counted_without_records(place: Path) -> None:
    fields = {"learning_rate": 0.3, "stop_kl": 0.5, "policy_batches": 6, "logging_steps": 100, "stages": 1}
    policy = run(config(place, "stopped-unrecorded", **fields)).stages[0]["phases"]["policy"]
    assert policy["stopped"]
    assert policy["steps"] == policy["batches"] - 1 > 0
    assert policy["trained_tokens"] > 0


def test_limits_come_from_demonstrations_first_samples_and_reward(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Limits] = []
    monkeypatch.setattr(policy_phase, "guard", lambda facts, limits: seen.append(limits))
    margins = {"stop_kl": 7.0, "stop_length_ratio": 4.0, "stop_unfinished": 0.25, "stop_reward_margin": 0.5}
    folder = run(config(place, "limits", **margins)).run_folder
    assert len(seen) == 4
    for stage, limits in ((0, seen[0]), (1, seen[3])):
        rows = read(folder, stage, "samples.jsonl.gz")
        own = [len(row["demo_ids"]) for row in rows if not row["heldout"]]
        sampled = sum(len(row["sample_ids"]) for row in rows) / len(rows)
        judged = [row for row in read(folder, stage, "rewards.jsonl.gz") if row["heldout"] and row["usable"]]
        assert limits.kl == 7.0
        assert limits.longest == pytest.approx(4 * max(sum(own) / len(own), sampled))
        assert limits.unfinished == pytest.approx(sum(not row["finished"] for row in rows) / len(rows) + 0.25)
        assert limits.reward == pytest.approx(sum(row["demo_reward"] for row in judged) / len(judged) + 0.5)
    seen.clear()
    run(config(place, "no-limits", stages=1))
    assert seen == [Limits(kl=0.0, longest=0.0, unfinished=0.0, reward=None)] * 2


# Prompts without demonstrations.

ANSWERED = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def prompt_of(text: str) -> tuple[int, ...]:
    return tuple(letter_tokenizer().encode(TEMPLATE.replace("{prompt}", text), add_special_tokens=False))


def drawn_prompts(folder: Path) -> list[tuple[int, ...]]:
    files = sorted(folder.glob("stages/*/rollouts/*.gz"))
    return [tuple(row["prompt_ids"]) for file in files for row in read_rows(file)]


@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_further_prompts_are_answered_each_once_and_never_held_out_ones(
    kind: str, plain: RunResult, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three new prompts, one twice, one too long, and all that have demonstrations, held out or not."""
    known = [json.loads(line)["prompt"] for line in (place / "rows.jsonl").read_text().splitlines()]
    new = ["jjjjjj", "ijijij", "hhgghh"]
    texts = [*known, *new, new[0], "", "a" * 30]
    file = place / f"prompts.{kind}"
    if kind == "txt":
        file.write_text("\n".join(texts), encoding="utf-8")
    else:
        rows = [
            {"prompt": text} if number % 2 else {"prompt": None, "messages": [{"role": "user", "content": text}]}
            for number, text in enumerate(filter(None, texts))
        ]
        file.write_text("".join(json.dumps(row) + "\n\n" for row in rows), encoding="utf-8")
    one = config(place, f"prompts-{kind}", prompts=(str(file),), slices="all", stages=1, policy_batches=6)
    folder = run(one).run_folder
    assert "prompts without demonstrations: 3" in capsys.readouterr().out
    samples = read(folder, 0, "samples.jsonl.gz")
    trained_on = {tuple(row["prompt_ids"]) for row in samples if not row["heldout"]}
    drawn = drawn_prompts(folder)
    # 18 prompts in 6 batches of 3: all 15 of the data and the three new ones, each with its two answers.
    assert set(drawn) == trained_on | {prompt_of(text) for text in new}
    assert sorted(drawn) == sorted([*set(drawn)] * 2)
    assert {tuple(row["prompt_ids"]) for row in samples}.isdisjoint({prompt_of(text) for text in new})
    assert json.loads((folder / "manifest.json").read_text())["data"].keys() == {str(place / "rows.jsonl"), str(file)}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("missing.txt", None, r"prompts file .*missing\.txt does not exist"),
        ("empty.txt", "\n \n", r"prompts file .*empty\.txt is empty; write one prompt a line"),
        ("broken.jsonl", '{"prompt": "a"}\n{"prompt": \n', r"broken\.jsonl:2 is no prompt; write"),
        ("number.jsonl", '{"prompt": 3}\n', r"number\.jsonl:1 is no prompt"),
        ("list.jsonl", '["a"]\n', r"list\.jsonl:1 is no prompt"),
        ("other.jsonl", '\n{"text": "a"}\n', r"other\.jsonl:2 is no prompt"),
        (
            "answered.jsonl",
            json.dumps({"messages": ANSWERED}) + "\n",
            r"answered\.jsonl:1 is no prompt.*the user's turn",
        ),
        ("nothing.jsonl", '{"messages": [{"role": "user", "content": null}]}\n', r"nothing\.jsonl:1 is no prompt"),
        ("turns.jsonl", '{"messages": [{"role": "user"}]}\n', r"turns\.jsonl:1 is no prompt"),
        ("latin.txt", b"caf\xe9\n", r"latin\.txt:1 is not UTF-8.*save the file as UTF-8"),
    ],
)
def test_a_bad_prompts_file_stops_the_run_before_anything_is_drawn(
    name: str, text: str | bytes | None, message: str, place: Path
) -> None:
    file = place / name
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DemotuneError, match=message):
        run(config(place, f"bad-{name}", prompts=(str(file),)))
    assert not (place / f"bad-{name}" / "stages").exists()


def test_a_changed_prompts_file_is_refused_on_resume(place: Path) -> None:
    file = place / "changing.txt"
    file.write_text("jj\n", encoding="utf-8")
    folder = run(config(place, "changing", prompts=(str(file),), stages=1)).run_folder
    resume(folder)
    file.write_text("ii\n", encoding="utf-8")
    with pytest.raises(DemotuneError, match=rf"data {file}: .* when it began"):
        resume(folder)
    file.unlink()
    with pytest.raises(DemotuneError, match="does not exist"):
        resume(folder)


# The command line.


def call(*arguments: str) -> tuple[int, str]:
    shows = {"COLUMNS": "300", "NO_COLOR": "1", "TERM": "dumb"}
    result = CliRunner().invoke(cli.app, list(arguments), env=shows)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


NAMED = ("--model=org/model", "--data=org/rows", "--output=x")
"""Nothing is looked for before the fields are checked."""


def flags(place: Path, name: str, **fields: Any) -> list[str]:
    values = {"model": place / "start", "data": place / "rows.jsonl", "output": place / name, **FIELDS, **fields}
    return ["--no-bf16", *(f"--{key.replace('_', '-')}={value}" for key, value in values.items() if key != "bf16")]


def test_the_command_line_runs_the_same(plain: RunResult, place: Path) -> None:
    code, shown = call("rft", *flags(place, "flags"))
    assert code == 0, shown
    said = " ".join(shown.split())
    check, policy = plain.stages[1]["check"], plain.stages[1]["phases"]["policy"]
    for words in (
        "rft: what was learned, on held-out demonstrations",
        f"on 9 held-out prompts samples earn {check['policy']['reward_before']:+.2f} before, "
        f"{check['policy']['reward_after']:+.2f} after (demonstrations {check['policy']['demo_reward']:+.2f})",
        f"KL to the start model {policy['last']['objective/kl']:.1f} nats a response",
        f"The reward is in {place / 'flags' / 'reward'}: demotune score --reward",
        f"The model is in {place / 'flags' / 'model'}",
    ):
        assert words in said
    for part in ("model", "reward"):
        expected = weights(plain.run_folder / part)
        found = weights(place / "flags" / part)
        assert all(torch.equal(value, found[name]) for name, value in expected.items())
    code, shown = call("resume", str(place / "flags"))
    assert code == 0
    assert "stage 1 is done already" in shown


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["rft", "--link", "nce"], "link is a field of irft, which rft does not use"),
        (["rft", "--temperature", "0.5"], "temperature is a field of spin and irft, which rft does not use"),
        (["rft", "--num-train-epochs", "1"], "num_train_epochs is a field of sft, which rft does not use"),
        (["rft", "--sft-weight=1"], "sft_weight is a field of irft, which rft does not use"),
        (["rft", "--num-generation", "2"], "rft has no field num_generation; did you mean num_generations?"),
        (["irft", "--reward-bound", "1"], "reward_bound is a field of rft, which irft does not use"),
        (["spin", "--prompts", "x.txt"], "prompts is a field of rft, which spin does not use"),
        (["rft", *NAMED, "--reward-link", "linear"], "a linear reward_link without reward_bound has no opti"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_a_flag_of_another_method_is_named(arguments: list[str], expected: str) -> None:
    code, shown = call(*arguments)
    assert code == 1
    assert f"error: {expected}" in shown
    assert "Traceback" not in shown


def test_two_processes_give_one_model_and_the_same_one_again(place: Path) -> None:
    """Two processes share drawing, scoring and steps; all six files of rollouts are those of a single process."""
    even = {"per_device_train_batch_size": 2, "num_generations": 4, "stages": 1, "reward_eval_steps": 1}
    # Adam blows rounding up to its rate; after two passes, an even number of micro-batches, no step is short of one.
    even |= {"optim": "sgd", "learning_rate": 0.1, "reward_learning_rate": 0.1, "reward_epochs": 2.0}
    script = place / "twice.py"
    lines = [f"app({['rft', *flags(place, name, **even)]!r}, standalone_mode=False)" for name in ("two", "twice")]
    script.write_text("\n".join(["from demotune.cli.main import app", *lines]), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29641"]
    source = str(Path(demotune.__file__).parents[1])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": source}
    done = subprocess.run(
        [*command, str(script)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    one = run(config(place, "one", **even, gradient_accumulation_steps=2)).run_folder
    names = ["samples.jsonl.gz", "rewards.jsonl.gz", "rollouts/0000.jsonl.gz", "rollouts/0001.jsonl.gz", "check.json"]
    for name in names:
        ours = (place / "two" / "stages" / "00" / name).read_bytes()
        assert ours == (place / "twice" / "stages" / "00" / name).read_bytes(), name
        if name == "samples.jsonl.gz":
            assert ours == (one / "stages" / "00" / name).read_bytes()
    for part in ("model", "reward"):
        two, again, expected = (weights(folder / part) for folder in (place / "two", place / "twice", one))
        for name, value in expected.items():
            assert torch.equal(two[name], again[name])
            torch.testing.assert_close(two[name], value, atol=2e-4, rtol=0)
    for number in (0, 1):
        rows, singles = (read(folder, 0, f"rollouts/{number:04d}.jsonl.gz") for folder in (place / "two", one))
        for row, single in zip(rows, singles, strict=True):
            assert (row["prompt_ids"], row["response"]) == (single["prompt_ids"], single["response"])
            assert row["advantages"] == pytest.approx(single["advantages"], abs=1e-3)
    assert state_of(place / "two", 0)["policy"]["steps"] == state_of(one, 0)["policy"]["steps"] == 2
