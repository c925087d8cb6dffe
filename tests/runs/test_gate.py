"""The gate: gains, wins, warnings and verdicts worked out by hand, and what a run does with them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny import save_tiny, write_rows
from scipy import stats
from transformers import TrainerCallback

from demotune import IRFTConfig, RunResult, SFTConfig, run
from demotune.common.diversity import distinct, repetition
from demotune.common.files import read_rows
from demotune.common.statistics import share_interval
from demotune.conclusion import conclude
from demotune.runs.gate import judge_stage
from demotune.runs.heldout import HeldoutRow

SMALL: dict[str, Any] = {"per_device_train_batch_size": 4, "eval_share": 0.3, "max_length": 96, "bf16": False}


def row(logp: float, ids: tuple[int, ...] = (1, 2, 3, 4, 9), finished: bool = True) -> HeldoutRow:
    return HeldoutRow("key", "prompt", "demonstration", logp, 5, "answer", ids, finished)


def rows(*logps: float) -> list[HeldoutRow]:
    return [row(logp) for logp in logps]


def test_distinct_and_repetition_by_hand() -> None:
    """Bigrams ab bc, ab ba: four, three of them different. The 4-grams of abcdabcd: abcd bcda cdab dabc abcd."""
    assert distinct(["abc", "aba"]) == 3 / 4
    assert distinct(["a"]) == 0
    assert repetition("abcdabcd") == pytest.approx(1 / 5)
    assert repetition("abc") == 0


def test_gain_and_wins_by_hand() -> None:
    """Gains 1, 2, 0, 3, 1.5: mean 1.5, variance 5/4, no skewness, so by t 1.5 +- 2.7764 * 0.5; wins 4 of 5."""
    gate = judge_stage(rows(-10, -10, -10, -10, -10), rows(-9, -8, -10, -7, -8.5), "start model")
    half = 2.7764451 * 0.5
    assert gate.gain.value == 1.5
    assert (gate.gain.low, gate.gain.high) == pytest.approx((1.5 - half, 1.5 + half), abs=1e-6)
    assert gate.wins == share_interval(4.5, 5)
    assert gate.verdict == "better"
    assert gate.best
    assert gate.compared_with == "start model"


def test_five_nearly_equal_gains_that_all_rose_are_better() -> None:
    gains = (20.611395835876465, 30.92187976837158, 40.821747660636902, 30.92189311981201, 30.91448116302490)
    assert judge_stage(rows(*[-90.0] * 5), rows(*(gain - 90 for gain in gains)), "start model").verdict == "better"


@pytest.mark.parametrize("count", [1, 2, 4])
def test_too_few_rows_give_no_verdict(count: int) -> None:
    gate = judge_stage(rows(*[-10.0] * count), rows(*[-9.0] * count), "start model")
    assert (gate.verdict, gate.gain.value, gate.gain.known) == ("too few held-out rows to tell", 1.0, False)
    assert gate.best


@pytest.mark.parametrize(("sign", "verdict", "best"), [(1, "better", True), (-1, "worse", False)])
def test_verdict_needs_an_interval_on_one_side_of_zero(sign: int, verdict: str, best: bool) -> None:
    gains = [1.0, 1.5, 0.5, 1.2, 0.8]
    gate = judge_stage(rows(*[-10.0] * 5), rows(*(-10 + sign * gain for gain in gains)), "stage 0")
    assert gate.baseline == "stage 1"
    assert stats.ttest_1samp(gains, 0).pvalue < 0.05
    assert (gate.verdict, gate.best) == (verdict, best)


def test_a_run_says_when_its_held_out_rows_are_too_few(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = irft(place, "one-prompt", eval_share=0.5, max_eval_rows=1)
    assert [stage["check"]["gate"]["verdict"] for stage in result.stages] == ["too few held-out rows to tell"] * 2
    assert result.best_stage == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "gate: too few held-out rows to tell (n = 1) whether stage 2 is better than stage 1: " in shown
    conclude(result.run_folder)
    shown = " ".join(capsys.readouterr().out.split())
    assert "held out too few rows to tell whether it helped" in shown
    card = (result.model_folder / "README.md").read_text()
    assert "(paired by prompt, 1 prompt): **too few held-out rows to tell**" in card
    written = [file.read_text() for file in result.run_folder.rglob("*.json")]
    assert not [text for text in (shown, card, *written) if re.search(r"\bnan\b", text, re.IGNORECASE)]


def test_warnings_name_what_broke() -> None:
    varied = [row(-1.0, tuple(range(start, start + 10))) for start in range(0, 100, 10)]
    looping = [row(-1.0, (1, 2, 3, 4, 5) * 5, finished=False) for _ in range(10)]
    assert judge_stage(varied, varied, "start model").warnings == ()
    found = judge_stage(varied, looping, "start model").warnings
    assert [warning.split(",")[0] for warning in found] == [
        "held-out answers have 25 tokens on average",
        "0% of held-out answers end by themselves",
        "answers are less varied: 0.02 distinct bigrams",
        "answers repeat themselves: 77% of 4-grams",
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gate")
    save_tiny(folder / "start")
    write_rows(folder / "rows.jsonl")
    return folder


def irft(place: Path, name: str, *callbacks: TrainerCallback, **fields: Any) -> RunResult:
    settings = {"stages": 2, "max_new_tokens": 8, "samples_per_prompt": 1, "learning_rate": 5e-3, **SMALL, **fields}
    where = {"model": str(place / "start"), "data": (str(place / "rows.jsonl"),), "output": str(place / name)}
    return run(IRFTConfig(**where, **settings), callbacks=callbacks)


class Spoil(TrainerCallback):
    """Makes what a stage has learned worse than what it began with: random weights, not its own."""

    def __init__(self, stage: int) -> None:
        self._left = stage

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if self._left == 0:
            torch.manual_seed(0)
            with torch.no_grad():
                for weight in model.parameters():
                    weight.add_(torch.randn_like(weight))
        self._left -= 1


def model_bytes(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_each_stage_is_compared_with_the_best_before_it(place: Path) -> None:
    result = irft(place, "plain", stages=3)
    files = [result.run_folder / "stages" / name for name in ("00/start", "00/heldout", "01/heldout", "02/heldout")]
    kept = [read_rows(file.with_suffix(".jsonl.gz")) for file in files]
    assert len({tuple(row["key"] for row in rows) for rows in kept}) == 1
    for number, stage in enumerate(result.stages):
        gate = stage["check"]["gate"]
        gains = [new["demo_logp"] - old["demo_logp"] for old, new in zip(kept[number], kept[number + 1], strict=True)]
        assert gate["gain"]["value"] == pytest.approx(sum(gains) / len(gains), abs=1e-9)
        assert gate["compared_with"] == ("start model" if number == 0 else f"stage {number - 1}")
        tokens = sum(row["demo_tokens"] for row in kept[number + 1])
        assert stage["check"]["nll_per_token"] == pytest.approx(
            -sum(row["demo_logp"] for row in kept[number + 1]) / tokens
        )
    second = irft(place, "worse-second", Spoil(1), stages=3)
    assert second.stages[1]["check"]["gate"]["verdict"] == "worse"
    assert [stage["check"]["gate"]["compared_with"] for stage in second.stages] == ["start model", "stage 0", "stage 0"]


@pytest.mark.parametrize(("gate", "best", "stages"), [("warn", 0, 2), ("stop", 0, 2), ("off", 1, 2)])
def test_the_best_stage_is_the_result(place: Path, gate: str, best: int, stages: int) -> None:
    result = irft(place, f"best-{gate}", Spoil(1), gate=gate)
    assert (result.best_stage, len(result.stages)) == (best, stages)
    stage_model = result.run_folder / "stages" / f"{best:02d}" / "model"
    assert model_bytes(result.model_folder) == model_bytes(stage_model)


def test_stop_ends_a_run_at_a_worse_stage(place: Path) -> None:
    result = irft(place, "stopped", Spoil(0), gate="stop")
    assert len(result.stages) == 1
    assert not (result.run_folder / "stages" / "01").exists()
    assert json.loads((result.run_folder / "summary.json").read_text())["best_stage"] == 0


def test_work_is_counted_in_tokens(place: Path) -> None:
    """Each phase's tokens from the files that it wrote, prompts once a response."""
    result = irft(place, "work", stages=1, epochs_per_stage=1)
    phases = result.stages[0]["phases"]
    samples = read_rows(result.run_folder / "stages" / "00" / "samples.jsonl.gz")
    drawn = sum(len(row["prompt_ids"]) + len(row["sample_ids"]) for row in samples)
    assert (phases["sample"]["forward_tokens"], phases["sample"]["trained_tokens"]) == (drawn, 0)
    trained = [row for row in samples if not row["heldout"]]
    given = sum(len(row["prompt_ids"]) + len(row["demo_ids"]) for row in trained)
    assert phases["reference"]["forward_tokens"] == drawn + given  # held-out demonstrations were scored at the start
    sides = sum(2 * len(row["prompt_ids"]) + len(row["sample_ids"]) + len(row["demo_ids"]) for row in trained)
    assert (phases["train"]["forward_tokens"], phases["train"]["trained_tokens"]) == (0, sides)
    manifest = json.loads((result.run_folder / "manifest.json").read_text())
    policy, _ = result.load()
    assert manifest["parameters"] == sum(weight.numel() for weight in policy.parameters())


def test_sft_answers_held_out_prompts_too(place: Path) -> None:
    config = SFTConfig(
        model=str(place / "start"), data=(str(place / "rows.jsonl"),), output=str(place / "sft"), **SMALL
    )
    result = run(config)
    before, after = (
        read_rows(result.run_folder / "stages" / "00" / name) for name in ("start.jsonl.gz", "heldout.jsonl.gz")
    )
    assert [row["key"] for row in before] == [row["key"] for row in after]
    assert all(len(row["sample_ids"]) > 0 for row in (*before, *after))
    assert result.stages[0]["check"]["gate"]["prompts"] == len(after)
