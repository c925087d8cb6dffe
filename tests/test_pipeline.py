"""Whole runs of a tiny model: what lies in the folder, what Python users may pass, what is refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from helpers.tiny import save_tiny, tiny_model, tiny_tokenizer, write_rows
from helpers.tiny_runs import SMALL, STAGED
from peft import AutoPeftModelForCausalLM, LoraConfig
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, TrainerCallback

from demotune import DemotuneError, IRFTConfig, RunResult, SFTConfig, SPINConfig, run
from demotune.common.files import read_json, read_rows
from demotune.training.methods import spin


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    save_tiny(folder / "start")
    write_rows(folder / "rows.jsonl")
    return folder


def inputs(place: Path) -> dict[str, object]:
    return {"model": str(place / "start"), "data": (str(place / "rows.jsonl"),)}


@pytest.fixture(scope="module")
def irft(place: Path) -> RunResult:
    return run(IRFTConfig(output=str(place / "irft"), **inputs(place), **STAGED))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_sft_learns_and_publishes_a_model_that_transformers_loads(place: Path) -> None:
    result = run(SFTConfig(output=str(place / "sft"), num_train_epochs=8, **inputs(place), **SMALL))
    assert result.start_nll_per_token is not None
    assert result.stages[0]["check"]["nll_per_token"] < result.start_nll_per_token - 0.2
    model = AutoModelForCausalLM.from_pretrained(result.model_folder)
    assert torch.equal(model.get_input_embeddings().weight, weights(result.model_folder)["model.embed_tokens.weight"])


def test_stages_lie_in_files_and_chain(irft: RunResult) -> None:
    stages = irft.run_folder / "stages"
    first, second = (read_json(stages / f"{n:02d}" / "state.json") for n in (0, 1))
    assert list(first) == ["sample", "start", "reference", "train", "check"]
    # The policy that stage 1 samples from is the model that stage 0 published.
    assert second["sample"]["policy"] == first["train"]["outputs"]["model"]
    rows = [read_rows(stages / f"{n:02d}" / "samples.jsonl.gz") for n in (0, 1)]
    slices = [{row["key"] for row in stage if not row["heldout"]} for stage in rows]
    kept_out = {row["key"] for row in rows[0] if row["heldout"]}
    assert not slices[0] & slices[1]
    assert len(slices[0] | slices[1]) + len(kept_out) == 24
    last = {name: value.clone() for name, value in weights(stages / "01" / "model").items()}
    assert all(torch.equal(value, last[name]) for name, value in weights(irft.model_folder).items())


@pytest.mark.parametrize("choice", [{}, {"history": 0.5}, {"reference": "initial"}], ids=str)
def test_log_probabilities_are_the_reference_s(choice: dict[str, Any], place: Path, tmp_path: Path) -> None:
    """reference_logps.jsonl.gz of both stages against a plain forward pass; fp32, 1e-4 nats.

    Held-out demonstrations were scored when the policy was checked, so only where that policy is not the reference are
    they computed here.
    """
    result = run(IRFTConfig(output=str(tmp_path / "run"), **{**inputs(place), **STAGED, **choice}))
    stages = [result.run_folder / "stages" / f"{number:02d}" for number in (0, 1)]
    samples = [{row["key"]: row for row in read_rows(stage / "samples.jsonl.gz")} for stage in stages]
    for number, stage in enumerate(stages):
        other = number == 1 and choice.get("reference") == "initial"
        model = AutoModelForCausalLM.from_pretrained(stages[0] / "model" if number and not other else place / "start")
        again = tokens = 0
        for score in read_rows(stage / "reference_logps.jsonl.gz"):
            again += score["key"] not in samples[number]
            row = samples[number].get(score["key"]) or samples[number - 1][score["key"]]
            for side in ("demo", "sample"):
                assert score[f"{side}_ref_logp"] == pytest.approx(plain_logp(model, row, side), abs=1e-4)
                if side == "sample" or not row["heldout"] or other:
                    tokens += len(row["prompt_ids"]) + len(row[f"{side}_ids"])
        assert bool(again) == (number == 1 and "history" in choice)
        assert json.loads((stage / "state.json").read_text())["reference"]["forward_tokens"] == tokens


def plain_logp(model: Any, row: dict[str, Any], side: str) -> float:
    """log pi of one side of a row of samples.jsonl.gz, by one call without padding."""
    sequence = torch.tensor([row["prompt_ids"] + row[f"{side}_ids"]])
    with torch.no_grad():
        logps = model(sequence).logits[0, :-1].log_softmax(-1)
    return float(logps.gather(-1, sequence[0, 1:, None])[len(row["prompt_ids"]) - 1 :].sum())


@pytest.mark.parametrize("bf16", [False, True])
def test_a_stage_that_changes_nothing_has_no_rewards(bf16: bool, place: Path, tmp_path: Path) -> None:
    """At a learning rate of almost nothing both sides keep their numbers to the bit: every held-out pair is a tie."""
    config = {**inputs(place), **STAGED, "learning_rate": 1e-30, "bf16": bf16}
    for stage in run(IRFTConfig(output=str(tmp_path / "run"), **config)).stages:
        for name in {"reward", "reward_since_start"} & stage["check"].keys():
            reward = stage["check"][name]
            assert (reward["margin"], reward["accuracy"]["value"], reward["demo_logratio"]) == (0, 0.5, 0)


@pytest.mark.parametrize("choice", [{}, {"reference": "initial"}], ids=str)
def test_held_out_rewards_are_log_ratios(choice: dict[str, Any], place: Path, tmp_path: Path) -> None:
    """Of the last stage, against this stage's reference and against the start model, by plain calls."""
    result = run(IRFTConfig(output=str(tmp_path / "run"), **{**inputs(place), **STAGED, **choice}))
    stages = [result.run_folder / "stages" / f"{number:02d}" for number in (0, 1)]
    start, before, after = (
        AutoModelForCausalLM.from_pretrained(folder)
        for folder in (place / "start", *(stage / "model" for stage in stages))
    )
    check = json.loads((stages[1] / "check.json").read_text())
    for name, number, reference in (("reward", 1, start if choice else before), ("reward_since_start", 0, start)):
        rows = [row for row in read_rows(stages[number] / "samples.jsonl.gz") if row["heldout"]]
        for side in ("demo", "sample"):
            ratios = [plain_logp(after, row, side) - plain_logp(reference, row, side) for row in rows]
            assert check[name][f"{side}_logratio"] == pytest.approx(sum(ratios) / len(ratios), abs=1e-4)


def test_half_precision_knows_no_log_probabilities(place: Path, tmp_path: Path) -> None:
    """There a number depends on what stands beside it, so every side is computed as it will be compared."""
    result = run(IRFTConfig(output=str(tmp_path / "run"), **{**inputs(place), **STAGED, "bf16": True}))
    for number in (0, 1):
        stage = result.run_folder / "stages" / f"{number:02d}"
        rows = read_rows(stage / "samples.jsonl.gz")
        sides = [len(row["prompt_ids"]) + len(row[side]) for row in rows for side in ("demo_ids", "sample_ids")]
        assert json.loads((stage / "state.json").read_text())["reference"]["forward_tokens"] == sum(sides)


def test_the_answers_of_a_start_policy_are_those_of_its_check(irft: RunResult) -> None:
    """Held-out prompts are answered once by each policy; the second stage draws its own prompts' samples alone."""
    first, second = (irft.run_folder / "stages" / f"{number:02d}" for number in (0, 1))
    checked = {row["key"]: row["sample_ids"] for row in read_rows(first / "heldout.jsonl.gz")}
    rows = read_rows(second / "samples.jsonl.gz")
    assert {row["key"]: row["sample_ids"] for row in rows if row["heldout"]} == checked
    drawn = sum(len(row["prompt_ids"]) + len(row["sample_ids"]) for row in rows if not row["heldout"])
    assert json.loads((second / "state.json").read_text())["sample"]["forward_tokens"] == drawn


def test_metrics_have_trl_names_and_start_at_log_2(irft: RunResult) -> None:
    rows = read_rows(irft.run_folder / "metrics.jsonl")
    for stage in (0, 1):
        steps = [row for row in rows if row["stage"] == stage and "loss" in row]
        assert [row["step"] for row in steps] == list(range(1, len(steps) + 1))
        assert steps[0]["loss"] == pytest.approx(0.693147, abs=1e-5)
        wanted = {"rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen"}
        assert wanted | {"logps/rejected", "entropy", "grad_norm", "num_tokens"} <= steps[-1].keys()
        done = next(row for row in rows if row["stage"] == stage and row["phase"] == "sample")
        assert 0 <= done["completions/finished_share"] <= 1 <= done["completions/mean_length"] <= 8


def test_same_seed_same_result_other_seed_other_result(irft: RunResult, place: Path) -> None:
    again = run(IRFTConfig(output=str(place / "again"), **inputs(place), **STAGED))
    other = run(IRFTConfig(output=str(place / "other"), seed=7, **inputs(place), **STAGED))
    expected = weights(irft.model_folder)
    assert all(torch.equal(value, expected[name]) for name, value in weights(again.model_folder).items())
    assert any(not torch.equal(value, expected[name]) for name, value in weights(other.model_folder).items())


def test_spin_is_irft_with_one_stage(place: Path) -> None:
    spin = run(SPINConfig(output=str(place / "spin"), **inputs(place), **STAGED))
    irft = run(IRFTConfig(output=str(place / "spin-as-irft"), stages=1, **inputs(place), **STAGED))
    expected = weights(irft.model_folder)
    assert all(torch.equal(value, expected[name]) for name, value in weights(spin.model_folder).items())


@pytest.mark.parametrize(
    "choice",
    [
        {"link": "nce"},
        {"link": "linear"},
        {"reference": "initial"},
        {"history": 0.5},
        {"slices": "all", "steps_per_stage": 3},
        {"sft_weight": 0.5},
        {"optimizer_across_stages": "carry"},
        {"optim": "rmsprop", "gradient_accumulation_steps": 2, "activation_checkpointing": True},
        {"dtype": "bfloat16", "bf16": True},
    ],
    ids=str,
)
def test_each_choice_changes_the_model(choice: dict[str, object], irft: RunResult, place: Path) -> None:
    name = "-".join(f"{key}-{value}" for key, value in choice.items())
    changed = run(IRFTConfig(output=str(place / name), **{**inputs(place), **STAGED, **choice}))
    expected = weights(irft.model_folder)
    assert any(
        not torch.equal(value.float(), expected[name].float()) for name, value in weights(changed.model_folder).items()
    )


def test_history_adds_pairs_of_the_previous_stage(place: Path) -> None:
    result = run(IRFTConfig(output=str(place / "half"), history=0.5, **inputs(place), **STAGED))
    phases = [stage["phases"] for stage in result.stages]
    first, second = phases[0]["reference"]["pairs"], phases[1]["reference"]["pairs"]
    own = phases[1]["sample"]["samples"] - phases[0]["sample"]["samples"] + first
    assert second == own + round(0.5 * first)


def test_lora_trains_only_the_adapter_and_exports_it_merged(place: Path) -> None:
    config = IRFTConfig(
        output=str(place / "lora"), use_peft=True, lora_r=4, lora_alpha=8, merge_adapter=True, **inputs(place), **STAGED
    )
    result = run(config)
    adapter = AutoPeftModelForCausalLM.from_pretrained(result.model_folder)
    merged = AutoModelForCausalLM.from_pretrained(place / "lora" / "model-merged")
    ids = torch.arange(3, 20).unsqueeze(0)
    start = AutoModelForCausalLM.from_pretrained(place / "start")
    with torch.no_grad():
        ours, theirs, before = (model(ids).logits for model in (adapter, merged, start))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(ours, before, atol=1e-4)
    # Training goes on from an adapter folder, and the adapter stays one.
    further = run(dataclasses.replace(config, output=str(place / "lora-2"), model=str(result.model_folder), stages=1))
    assert (further.model_folder / "adapter_config.json").is_file()


def test_python_users_may_pass_objects(place: Path) -> None:
    seen: list[int] = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs) -> None:
            seen.append(state.global_step)

    rows = [json.loads(line) for line in (place / "rows.jsonl").read_text().splitlines()]
    result = run(
        SFTConfig(output=str(place / "objects"), max_steps=2, **SMALL),
        model=tiny_model(),
        train_dataset=Dataset.from_list(rows[:16]),
        eval_dataset=Dataset.from_list(rows[16:]),
        processing_class=tiny_tokenizer(),
        peft_config=LoraConfig(r=2, target_modules=["q_proj"], lora_dropout=0.5, task_type="CAUSAL_LM"),
        callbacks=[Watch()],
    )
    assert seen == [1, 2]
    assert json.loads((result.model_folder / "adapter_config.json").read_text())["target_modules"] == ["q_proj"]
    policy, tokenizer = result.load()
    assert policy.get_base_model().config.vocab_size == len(tokenizer)


def test_a_folder_with_another_run_is_refused(irft: RunResult, place: Path) -> None:
    with pytest.raises(DemotuneError, match="already holds a finished run"):
        run(IRFTConfig(output=str(irft.run_folder), **inputs(place), **STAGED))
    stranger = place / "stranger"
    stranger.mkdir()
    (stranger / "thesis.tex").write_text("precious")
    with pytest.raises(DemotuneError, match=r"thesis\.tex"):
        run(SFTConfig(output=str(stranger), **inputs(place), **SMALL))


def test_too_many_bad_rows_stop_the_run_before_training(place: Path) -> None:
    bad = place / "bad.jsonl"
    bad.write_text((place / "rows.jsonl").read_text() + "{broken\n" * 4)
    with pytest.raises(DemotuneError, match="broken JSON 4"):
        run(SFTConfig(output=str(place / "bad"), model=str(place / "start"), data=(str(bad),), **SMALL))
    refused = read_rows(place / "bad" / "quarantine.jsonl")
    assert [row["source"] for row in refused] == [f"{bad}:{line}" for line in range(25, 29)]
    assert not (place / "bad" / "stages").exists()


def test_spin_objective_has_no_choices() -> None:
    objective = spin.objective(SPINConfig(output="x", beta=0.3))
    assert (objective.link, objective.beta, objective.sft_weight) == ("logistic", 0.3, 0.0)


def test_another_tokenizer_leaves_the_model_s_own_files_alone(place: Path) -> None:
    before = {file.name: file.read_bytes() for file in (place / "start").iterdir()}
    other = tiny_tokenizer()
    other.chat_template = other.chat_template.replace("\n", " ")
    config = SFTConfig(output=str(place / "other-template"), max_steps=1, **inputs(place), **SMALL)
    result = run(config, processing_class=other)
    assert {file.name: file.read_bytes() for file in (place / "start").iterdir()} == before
    assert (result.model_folder / "chat_template.jinja").read_text() == other.chat_template
    assert run(
        dataclasses.replace(config, output=str(place / "other-2"), model=""),
        model=str(place / "start"),
        processing_class=other,
    ).start_nll_per_token == pytest.approx(result.start_nll_per_token)


def test_full_training_from_an_adapter_trains_the_folded_model(place: Path) -> None:
    adapter = SFTConfig(output=str(place / "adapter"), max_steps=2, use_peft=True, lora_r=2, **inputs(place), **SMALL)
    start = run(adapter).model_folder
    full = dataclasses.replace(adapter, output=str(place / "full"), model=str(start), use_peft=False, max_steps=3)
    trained, before = weights(run(full).model_folder), weights(place / "start")
    assert all(not torch.equal(trained[name], before[name]) for name in before if "proj" in name)


def test_the_run_warns_when_the_pairwise_problem_is_nearly_solved(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = {**STAGED, "learning_rate": 3e-2, "steps_per_stage": 25, "stages": 1}
    run(IRFTConfig(output=str(place / "solved"), **inputs(place), **fields))
    assert "its pairwise problem is nearly solved" in " ".join(capsys.readouterr().out.split())


def test_max_length_bounds_samples_and_the_model_s_positions_bound_it(place: Path) -> None:
    fields = {**STAGED, "max_length": 46, "max_new_tokens": 40, "stages": 1}
    result = run(IRFTConfig(output=str(place / "bounded"), **inputs(place), **fields))
    rows = read_rows(result.run_folder / "stages" / "00" / "samples.jsonl.gz")
    assert max(len(row["prompt_ids"]) + len(row["sample_ids"]) for row in rows) == 46
    with pytest.raises(DemotuneError, match="set --max-length 256 or less"):
        run(IRFTConfig(output=str(place / "long"), **{**inputs(place), **STAGED, "max_length": 1024}))
