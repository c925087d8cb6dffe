"""`demotune distill`: the best of N by a reward, then SFT on them; killed and given again equals uninterrupted."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.command import call
from helpers.killing import Killed, die_at
from helpers.rewards import ask, save_reward
from helpers.tiny import save_tiny, write_rows
from helpers.tiny_runs import tiny_runs
from safetensors.torch import load_file

from demotune import DemotuneError, load_reward
from demotune.cli import distill as distilling
from demotune.cli.distill import distill, sft_config
from demotune.config.drawing import DistillConfig, GenerationOptions
from demotune.rewards.answers import Answer, BestOf, answer
from demotune.rewards.reward import Reward
from demotune.runs.folder import RunFolder

# Text of a random model has more tokens when it is read again.
FAST: dict[str, Any] = {
    "max_length": 256,
    "max_bad_share": 0.5,
    "bf16": False,
    "learning_rate": 1e-3,
    "per_device_train_batch_size": 4,
}
DRAWN: dict[str, Any] = {"best_of": 3, "max_new_tokens": 100}
"""Long enough for a random model to end by itself often."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distill")
    save_tiny(folder / "start")
    write_rows(folder / "rows.jsonl", 16)
    save_reward(folder / "reward")
    return folder


def config(place: Path, name: str, **fields: Any) -> DistillConfig:
    where = {"model": str(place / "start"), "reward": str(place / "reward"), "data": (str(place / "rows.jsonl"),)}
    return DistillConfig(**{**where, "output": str(place / name), **FAST, **DRAWN, **fields})


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def uninterrupted(place: Path) -> Path:
    distill(config(place, "uninterrupted"))
    return place / "uninterrupted"


def test_best_of_n_by_the_reward_is_what_sft_is_trained_on(place: Path, uninterrupted: Path) -> None:
    prompts = [ask(row["prompt"]) for row in rows_of(place / "rows.jsonl")]
    best_of = BestOf(3, load_reward(place / "reward", bf16=False))
    options = GenerationOptions(max_new_tokens=100, bf16=False)
    expected = answer(str(place / "start"), prompts, options, best_of=best_of)
    kept = [(prompt, one) for prompt, one in zip(prompts, expected, strict=True) if one.finished and one.text.strip()]
    assert 4 < len(kept) < 16  # or leaving out unfinished ones would not show
    rows = rows_of(uninterrupted / "best.jsonl")
    assert [row["prompt"] for row in rows] == [prompt for prompt, _ in kept]
    assert [row["completion"][0]["content"] for row in rows] == [one.text for _, one in kept]
    assert [row["score"] for row in rows] == pytest.approx([one.reward for _, one in kept], abs=1e-5)
    first = [one.first_reward for _, one in kept]
    assert [row["first_score"] for row in rows] == [
        one if one is None else pytest.approx(one, abs=1e-5) for one in first
    ]
    run = RunFolder(uninterrupted / "sft")
    assert run.finished
    begun = run.read_config()
    assert (begun.method, begun.data, begun.learning_rate) == ("sft", (str(uninterrupted / "best.jsonl"),), 1e-3)


@pytest.mark.parametrize("bf16", [True, False])
def test_all_of_it_computes_in_the_type_that_is_asked_for(
    bf16: bool, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The draw, the reward, and SFT."""
    seen: list[object] = []
    load = distilling.load_reward

    def loading(source: str, **fields: Any) -> Reward:
        seen.append(fields["bf16"])
        return load(source, **fields)

    def drawing(_: str, prompts: Sequence[object], options: GenerationOptions, **__: object) -> list[Answer]:
        seen.append(options.bf16)
        return [Answer("yes, of course", True, 1.0, 1.0) for _ in prompts]

    monkeypatch.setattr(distilling, "load_reward", loading)
    monkeypatch.setattr(distilling, "answer", drawing)
    distill(config(place, f"typed-{bf16}", bf16=bf16))
    assert seen == [bf16, bf16]
    assert RunFolder(place / f"typed-{bf16}" / "sft").read_config().bf16 == bf16


def test_killed_and_given_again_equals_uninterrupted(place: Path, uninterrupted: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        count = die_at(0, patch)
        distill(config(place, "counted"))
        moments = count()
    weights = load_file(uninterrupted / "sft" / "model" / "model.safetensors")
    for number in sorted({1, 3, 5, 8, moments // 2, moments - 8}):
        name = f"killed-{number}"
        with pytest.MonkeyPatch.context() as patch:
            die_at(number, patch)
            with pytest.raises(Killed):
                distill(config(place, name))
        distill(config(place, name))
        assert (place / name / "best.jsonl").read_bytes() == (uninterrupted / "best.jsonl").read_bytes()
        found = load_file(place / name / "sft" / "model" / "model.safetensors")
        assert all(torch.equal(found[key], weights[key]) for key in weights)
        assert sorted(path.name for path in (place / name).iterdir()) == [".lock", "best.jsonl", "distill.json", "sft"]


def test_a_finished_folder_gives_its_result_and_other_settings_are_refused(place: Path, uninterrupted: Path) -> None:
    before = (uninterrupted / "sft" / "summary.json").stat().st_mtime_ns
    assert distill(config(place, "uninterrupted")).run_folder == uninterrupted / "sft"
    assert (uninterrupted / "sft" / "summary.json").stat().st_mtime_ns == before
    with pytest.raises(DemotuneError, match=r"begun with other settings \(best_of was 3, is 4; seed was 42, is 1\)"):
        distill(config(place, "uninterrupted", best_of=4, seed=1))
    with pytest.raises(DemotuneError, match=r"another run than the one that is wanted \(learning_rate differ\)"):
        distill(config(place, "uninterrupted", learning_rate=1e-2))
    (place / "taken").mkdir()
    (place / "taken" / "mine.txt").touch()
    with pytest.raises(DemotuneError, match=r"taken is not empty \(found mine.txt\)"):
        distill(config(place, "taken"))


def test_the_command_says_how_many_and_by_how_much(place: Path, uninterrupted: Path) -> None:
    """Prompts of a file and of rows, each once, through the flags of SFT; mean rewards are those of best.jsonl."""
    prompts = place / "prompts.txt"
    prompts.write_text("say 1 please\ntell me more\n", encoding="utf-8")
    code, shown = call(
        "distill", "--model", str(place / "start"), "--reward", str(place / "reward"), "--best-of", "4",
        "--prompts", str(prompts), "--data", str(place / "rows.jsonl"), "--output", str(place / "by-command"),
        "--max-new-tokens", "100", "--learning-rate", "1e-3", "--max-length", "256",
        "--max-bad-share", "0.5", "--no-bf16", "--max-steps", "2", "--use-peft",
    )  # fmt: skip
    assert code == 0, shown
    rows = rows_of(place / "by-command" / "best.jsonl")
    asked = [row["prompt"][0]["content"] for row in rows]
    assert len(set(asked)) == len(asked)
    both = [row for row in rows if row["first_score"] is not None]
    assert 4 < len(both) < len(rows)
    assert all(row["first_score"] <= row["score"] for row in both)
    first, best = (sum(row[name] for row in both) / len(both) for name in ("first_score", "score"))
    assert best > first
    text = f"best of 4: responses to {len(rows)} prompts; where the first one is finished ({len(both)}) it earns "
    text += f"{first:.4g} on average, the best {best:.4g}"
    assert text in shown
    assert f"{17 - len(rows)} of 17 prompts have no finished response with text and a score: left out" in shown
    assert (place / "by-command" / "sft" / "model" / "adapter_config.json").exists()
    assert "gain" in shown.splitlines()[-1]


def test_prompts_are_written_by_the_template_that_sampling_used(place: Path) -> None:
    assert sft_config(config(place, "x", template="Q: {prompt} A: ")).template == "Q: {prompt} A: "
    assert sft_config(config(place, "x")).template is None


def test_any_reward_of_a_run_chooses(tmp_path_factory: pytest.TempPathFactory, place: Path) -> None:
    runs = tiny_runs(tmp_path_factory)
    for name in ("irft-1", "rft"):
        result = distill(config(place, f"by-{name}", reward=str(runs / name), best_of=2, max_steps=1))
        assert result.method == "sft"


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"data": ()}, "there is no prompt; give --prompts FILE, or --data"),
        ({"data_weights": (1.0,)}, "drop --data-weights"),
        ({"temperature": 0.0}, "temperature must be > 0"),
        ({"best_of": 1}, "best_of must be at least 2, got 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(fields: dict[str, Any], problem: str, place: Path) -> None:
    with pytest.raises(DemotuneError, match=problem):
        config(place, "x", **fields)


def test_without_a_finished_response_there_is_nothing_to_train_on(place: Path) -> None:
    with pytest.raises(DemotuneError, match="none of 16 prompts has a response that says something, ended"):
        distill(config(place, "short", max_new_tokens=1, seed=3))


def test_rows_with_tools_are_refused(place: Path, tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}}
    row = {"prompt": "a", "completion": "b", "tools": [tool]}
    (tmp_path / "tools.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(DemotuneError, match=r"tools.jsonl:1 has tools or documents, which distill does not read"):
        distill(config(place, "tools", data=(str(tmp_path / "tools.jsonl"),)))
