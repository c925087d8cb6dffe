"""Whole runs of RFT: what lies in the folder and is true, LoRA on shared weights, guards."""

import copy
import gc
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from helpers.micro import letter_tokenizer, tiny_lm
from helpers.rft_runs import FIELDS, TEMPLATE, adapted, config, make_world, read, state_of, weights
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, TrainerCallback

from demotune import IRFTConfig, RunResult, SFTConfig, SPINConfig, run
from demotune.common.files import read_rows
from demotune.common.statistics import share_interval
from demotune.models import reward as reward_models
from demotune.models.logprobs import naive_response_logps
from demotune.models.policy import load_policy, save_policy, weight_sharing_base
from demotune.sampling import SamplingOptions, sample_responses
from demotune.training.phases import policy as policy_phase
from demotune.training.phases.policy import Limits
from demotune.training.setup import derive_seed


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("rft"))


@pytest.fixture(scope="module")
def plain(place: Path) -> RunResult:
    return run(config(place, "plain"))


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
        f"stage 2, from {pairs} pairs of a demonstration",
        f"Demonstrations: {place / 'rows.jsonl'}",
        f"Start: {place / 'start'}",
        "Reward of a response: the head's number at the end-of-turn token. Link: logistic.",
        "responses that end by themselves only",
        "rendered with the template 'a{prompt}'",
        "AutoModelForSequenceClassification.from_pretrained",
    ):
        assert said in card
    facts = json.loads((plain.run_folder / "reward" / "reward.json").read_text())
    assert facts == {"link": "logistic", "bound": None, "template": TEMPLATE, "features": {}}


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


def test_the_same_answers_are_neither_better_nor_worse(place: Path) -> None:
    """Where every answer is the one from before, rounding of rewards decides nothing."""
    certain = tiny_lm(seed=0, vocabulary=12)  # of which every sample is the likeliest one, and which stands still
    with torch.no_grad():
        certain.get_output_embeddings().weight.mul_(1e4)
    save_policy(certain, letter_tokenizer(12), place / "certain")
    fields = {"learning_rate": 1e-12, "reward_learning_rate": 3e-2, "finished_only": False}
    result = run(config(place, "same-answers", model=str(place / "certain"), **fields))
    for stage in result.stages:
        check = stage["check"]["policy"]
        assert check["reward_after"] == pytest.approx(check["reward_before"], abs=1e-5)
        assert check["better"]["value"] == 0.5


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
    sampled = {"max_new_tokens": 6, "samples_per_prompt": 1, "stages": 1, "steps_per_stage": 1}
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
        assert f"stage {number + 1}: policy steps ended at batch {policy['batches']}: the KL" in shown
        assert f"stage {number + 1}: policy steps were stopped: the KL" in shown
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
