"""RFT with a linear reward: what lies in the run, that the same reward scores elsewhere, kills, LoRA, refusals."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.killing import Killed, die_before
from helpers.micro import letter_tokenizer
from helpers.rft_runs import FIELDS, TEMPLATE, make_world, read, state_of, weights
from helpers.tiny import save_tiny, tiny_tokenizer, write_rows

from demotune import DemotuneError, RFTConfig, RunResult, ScalarReward, evaluate, resume, run, write_report
from demotune.common.files import read_json, write_json
from demotune.common.json_records import read_records
from demotune.estimation.estimate import estimate_config
from demotune.models.policy import load_policy
from demotune.models.reward import reward_from_policy, save_reward_model
from demotune.models.reward_facts import RewardFacts, read_facts
from demotune.records import Completion, Response
from demotune.rewards.features import feature_table
from demotune.rewards.linear import Columns, fit_linear_reward, pair_columns
from demotune.runs.rows import SampleRow
from demotune.training import linear_reward

FULL = ("reward_learning_rate", "reward_epochs", "reward_eval_steps")
LINEAR: dict[str, Any] = {name: value for name, value in FIELDS.items() if name not in FULL} | {"reward_kind": "linear"}
TINY: dict[str, Any] = LINEAR | {"template": None, "max_length": 64, "finished_only": False}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("linear"))


def config(place: Path, name: str, **fields: Any) -> RFTConfig:
    where = {"model": str(place / "start"), "data": (str(place / "rows.jsonl"),), "output": str(place / name)}
    return RFTConfig(**{**where, **LINEAR, **fields})


@pytest.fixture(scope="module")
def plain(place: Path) -> RunResult:
    return run(config(place, "plain"))


def own_rewards(folder: Path, stage: int) -> list[float]:
    rows = read(folder, stage, "rewards.jsonl.gz")
    return [row[name] for row in rows for name in ("demo_reward", "sample_reward")]


def pairs_as_completions(folder: Path, stage: int) -> list[Completion]:
    return [
        Completion(tuple(row["prompt_ids"]), Response(tuple(row[f"{side}_ids"]), row[finished]))
        for row in read(folder, stage, "samples.jsonl.gz")
        for side, finished in (("demo", "demo_finished"), ("sample", "finished"))
    ]


def test_the_run_keeps_an_ordinary_classifier_on_its_start_model(plain: RunResult, place: Path) -> None:
    """In both stages, though the second one's policy is another; the numbers are those of a fit by hand."""
    start = weights(place / "start")
    for stage in (0, 1):
        folder = plain.run_folder / "stages" / f"{stage:02d}"
        found = weights(folder / "reward")
        assert found.pop("score.weight").abs().max() > 0
        assert all(torch.equal(value, start[name]) for name, value in found.items())
        assert not (folder / "reward-metrics.jsonl").exists()
        record = state_of(plain.run_folder, stage)["reward"]
        assert (record["steps"], record["trained_tokens"], record["end"]) == (0, 0, {})
        assert 0 <= record["accuracy"]["low"] <= record["accuracy"]["value"] <= record["accuracy"]["high"] <= 1
        assert record["heldout_prompts"] > 0
    assert read_facts(plain.run_folder / "reward").features == {}


def test_the_phase_fits_what_the_library_fits(plain: RunResult, place: Path) -> None:
    rows = read_records(SampleRow, plain.run_folder / "stages" / "00" / "samples.jsonl.gz")
    model = load_policy(place / "start", dtype="float32", attn_implementation=None, device=torch.device("cpu"))
    train, heldout = (
        pair_columns(
            model,
            [row.pair for row in rows if row.heldout == side and row.finished],
            Columns(),
            pad_id=0,
            bf16=False,
        )
        for side in (False, True)
    )
    expected = fit_linear_reward(train, heldout, Columns())
    record = state_of(plain.run_folder, 0)["reward"]
    assert (record["l2"], record["pairs"], record["equal_pairs"]) == (expected.l2, expected.pairs, train.equal)
    assert record["accuracy"]["value"] == expected.accuracy.value
    head = torch.from_numpy(expected.weights / expected.scale).float()
    assert torch.allclose(weights(plain.run_folder / "stages/00/reward")["score.weight"][0], head, atol=1e-5)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"reward_question": "abc", "max_length": 20},
        {
            "reward_features": ("finished", "repetition", "log_length"),
            "reward_question": "c",
            "finished_only": False,
        },
        {"use_peft": True},
        {"use_peft": True, "reward_question": "ab"},
    ],
)
def test_score_gives_the_rewards_of_the_run(fields: Mapping[str, Any], place: Path, tmp_path: Path) -> None:
    """Of its stages' pairs, and of on-policy responses: what training saw is what the folder gives."""
    folder = run(config(place, str(tmp_path / "run"), **fields)).run_folder
    planned, _ = estimate_config(config(place, "estimated", **fields), "h100")
    for stage in (0, 1):
        (work,) = [one for one in planned.work if (one.name, one.stage) == ("reward", stage)]
        assert work.forward_tokens == pytest.approx(state_of(folder, stage)["reward"]["forward_tokens"], rel=0.35)
        reward = ScalarReward(folder / "stages" / f"{stage:02d}" / "reward", bf16=False)
        found = reward.rewards_of(pairs_as_completions(folder, stage))
        assert found == pytest.approx(own_rewards(folder, stage), abs=1e-4)
        rollouts = read(folder, stage, "rollouts/0000.jsonl.gz")
        drawn = [
            Completion(tuple(row["prompt_ids"]), Response(tuple(row["response"]["ids"]), row["response"]["finished"]))
            for row in rollouts
        ]
        assert reward.rewards_of(drawn) == pytest.approx([row["reward"] for row in rollouts], abs=1e-4)
    facts = read_facts(folder / "reward")
    assert tuple(facts.features) == fields.get("reward_features", ())
    assert (facts.question.text if facts.question else None) == fields.get("reward_question")


def test_features_are_added_to_what_the_head_says(place: Path, tmp_path: Path) -> None:
    names: tuple[Any, ...] = ("finished", "repetition", "log_length")
    fields = {"reward_features": names, "stages": 1, "finished_only": False}
    folder = run(config(place, str(tmp_path / "run"), **fields)).run_folder
    completions, whole = pairs_as_completions(folder, 0), ScalarReward(folder / "reward", bf16=False)
    bare = tmp_path / "bare"
    shutil.copytree(folder / "reward", bare)
    write_json(bare / "reward.json", read_json(bare / "reward.json") | {"features": {}})
    added = [
        sum(weight * number for weight, number in zip(whole.feature_weights.values(), row, strict=True))
        for row in feature_table(completions, names)
    ]
    assert max(added) - min(added) > 1e-3
    expected = [
        head + more for head, more in zip(ScalarReward(bare, bf16=False).rewards_of(completions), added, strict=True)
    ]
    assert whole.rewards_of(completions) == pytest.approx(expected, abs=1e-5)
    write_json(bare / "reward.json", read_json(bare / "reward.json") | {"features": {"charm": 1.0}})
    with pytest.raises(DemotuneError, match="reads charm, and known are finished"):
        ScalarReward(bare)


@pytest.mark.parametrize("what", ["reward", "rewards.jsonl.gz", "state.json"])
def test_killed_in_the_reward_phase_and_resumed(what: str, plain: RunResult, place: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if what == "state.json":  # the reward is there, but not marked as done
            patch.setattr(linear_reward, "give_back_memory", lambda: (_ for _ in ()).throw(Killed))
        else:
            die_before(f"stages/00/{what}", patch)
        with pytest.raises(Killed):
            run(config(place, str(tmp_path / "run")))
    assert "reward" not in state_of(tmp_path / "run", 0)
    resume(tmp_path / "run")
    for part in ("model", "reward"):
        expected = weights(plain.run_folder / part)
        assert all(torch.equal(value, expected[name]) for name, value in weights(tmp_path / "run" / part).items())
    for file in plain.run_folder.glob("stages/*/*.jsonl.gz"):
        assert (tmp_path / "run" / file.relative_to(plain.run_folder)).read_bytes() == file.read_bytes(), file


def test_report_and_evaluation_of_a_run(plain: RunResult, place: Path, tmp_path: Path) -> None:
    page = write_report(plain, output=tmp_path / "report.html").read_text()
    assert "Reward accuracy" in page
    assert "Margin of the reward model" not in page  # no steps, no chart of them
    assert "a policy can learn to exploit the errors of that reward." in page
    assert "when the training of the reward stopped" not in page
    found = evaluate(
        model=plain, data=str(place / "rows.jsonl"), reward=(plain,), output=str(tmp_path / "eval"), max_rows=8,
        max_new_tokens=6, bf16=False,
    )  # fmt: skip
    assert str(plain.run_folder) in json.dumps(found.record["judges"])
    assert plain.metrics["eval_rewards/accuracies"] >= 0


def test_a_named_model_gives_the_states(place: Path, tmp_path: Path) -> None:
    """A classifier: its backbone, its own head is not used."""
    model = load_policy(place / "start", dtype="float32", attn_implementation=None, device=torch.device("cpu"))
    with torch.no_grad():
        next(iter(model.parameters())).mul_(1.5)
    reward = reward_from_policy(model, 0)
    torch.nn.init.normal_(reward.score.weight)
    save_reward_model(reward, letter_tokenizer(12), RewardFacts("logistic", None, TEMPLATE), tmp_path / "named", "")
    folder = run(config(place, str(tmp_path / "run"), reward_model=str(tmp_path / "named"), stages=1)).run_folder
    named, found = weights(tmp_path / "named"), weights(folder / "reward")
    assert not torch.equal(named.pop("score.weight"), found["score.weight"])
    assert all(torch.equal(value, found[name]) for name, value in named.items())


def test_estimate_counts_no_steps(place: Path) -> None:
    found, _ = estimate_config(config(place, "estimated"), "h100")
    phases = [work for work in found.work if work.name == "reward"]
    assert [work.training for work in phases] == [None, None]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"reward_epochs": 1.0},
            "belongs to reward_kind full.*drop --reward-epochs, or give --reward-kind full",
        ),
        ({"reward_bound": 1.0}, "reward_bound belongs to reward_kind full"),
        ({"reward_kind": "full", "reward_question": "ok?"}, "reward_question belongs to reward_kind linear"),
        ({"reward_features": "length"}, "reward_features must be one of finished, repetition"),
        ({"reward_features": "repetition,repetition"}, r"reward_features names one twice .*name each once"),
        ({"reward_features": "repetition,finished"}, "finished says nothing where .*or give --no-finished-only"),
        ({"reward_kind": "small"}, "reward_kind must be one of full, linear"),
    ],
)
def test_fields_of_the_other_kind_are_refused(fields: Mapping[str, Any], message: str) -> None:
    with pytest.raises(DemotuneError, match=message):
        RFTConfig(**{"model": "m", "data": ("d",), "output": "o", "reward_kind": "linear", **fields})


def test_features_are_named_one_by_one_or_by_commas() -> None:
    base: dict[str, Any] = {"model": "m", "data": ("d",), "output": "o", "reward_kind": "linear"}
    expected = ("prompt_overlap", "repetition")
    for given in ("prompt_overlap,repetition", ["prompt_overlap", "repetition"], ("prompt_overlap,repetition",)):
        assert RFTConfig(**base, reward_features=given).reward_features == expected


def test_a_question_must_fit_behind_the_longest_row(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "start")
    data = (write_rows(tmp_path / "rows.jsonl"),)
    text = "Is this a good answer?"
    asked = len(tiny_tokenizer()(text, add_special_tokens=False).input_ids)
    fields = TINY | {"max_length": 256, "reward_question": text}
    with pytest.raises(DemotuneError, match=f"question {asked} tokens.*256 positions; set --max-length {256 - asked}"):
        run(RFTConfig(**{"model": model, "data": data, "output": str(tmp_path / "run"), **fields}))
