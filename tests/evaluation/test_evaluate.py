"""`demotune evaluate` on tiny runs: every number again from the raw rows and from plain transformers; who judges; what
is left out."""

import itertools
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.evaluations import QUICK, evaluation, measure_of, rows_of, strict
from helpers.judge_server import JudgeServer, longer
from helpers.tiny import tiny_model, tiny_tokenizer
from helpers.tiny_runs import PREFERENCES, SMALL, write_json_lines
from peft import LoraConfig, PeftModel, get_peft_model
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from demotune import DemotuneError, SFTConfig, run
from demotune.common.files import read_rows
from demotune.config.commands import RowReading
from demotune.evaluation import evaluate as evaluate_module
from demotune.evaluation import leaks
from demotune.evaluation.evaluate import Evaluation
from demotune.evaluation.measuring import Logps, Measured
from demotune.evaluation.quantities import quantities
from demotune.evaluation.show import show_evaluation
from demotune.evaluation.tasks.records import TaskOptions, TaskResult, TaskScores
from demotune.rewards.load import load_reward
from demotune.rewards.select import Choice, select

Model = tuple[PreTrainedModel, PreTrainedTokenizerBase]


@pytest.fixture(scope="module")
def main(runs: Path, place: Path) -> Iterator[Evaluation]:
    """A model, two baselines, rewards of which one trained the model, a function that abstains now and then."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(place)
        yield evaluation(
            place / "main",
            model=str(runs / "irft-1"),
            baseline=(str(runs / "sft"), str(runs / "start")),
            data=(str(place / "test.jsonl"),),
            reward=(str(runs / "rft"), str(runs / "irft-1")),
            judge=("evaluate_judges:length",),
        )


def plain(folder: Path) -> Model:
    """The model and tokenizer as transformers loads them."""
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def chat_ids(tokenizer: PreTrainedTokenizerBase, prompt: str, response: str | None = None) -> list[int]:
    chat = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    return tokenizer.encode(text if response is None else f"{text}{response}<|im_end|>", add_special_tokens=False)


def plain_logp(model: torch.nn.Module, ids: list[int], prompt_length: int) -> float:
    with torch.no_grad():
        logps = model(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
    return float(logps.gather(-1, torch.tensor(ids)[1:, None])[prompt_length - 1 :].sum())


def comparison_of(found: Evaluation, name: str, baseline: str, judge: str | None = None) -> dict[str, Any]:
    wanted = {"measure": name, "baseline": baseline, "judge": judge}
    (row,) = (row for row in found.record["comparisons"] if wanted.items() <= row.items())
    return row


def part_of(folder: Path, name: str) -> list[Any]:
    (file,) = (folder / "parts").glob(f"{name}-*.json")
    return json.loads(file.read_text())["rows"]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


# Numbers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["irft-1", "sft", "start"])
def test_log_probabilities_are_those_of_a_plain_forward_pass(
    main: Evaluation, runs: Path, place: Path, name: str
) -> None:
    """fp32, 1e-4 nats; gap and per-token numbers follow from them."""
    model, tokenizer = plain(runs / name if name == "start" else runs / name / "model")
    given = read_rows(place / "test.jsonl")
    found = [row["models"][name] for row in rows_of(main)]
    assert len(found) == len(given) == PREFERENCES
    for row, told in zip(given, found, strict=True):
        prompt = len(chat_ids(tokenizer, row["prompt"]))
        for side, kind in (("chosen", "demo"), ("rejected", "rejected")):
            ids = chat_ids(tokenizer, row["prompt"], row[side])
            assert told[f"{kind}_tokens"] == len(ids) - prompt
            assert told[f"{kind}_logp"] == pytest.approx(plain_logp(model, ids, prompt), abs=1e-4)


@pytest.mark.parametrize("name", ["irft-1", "sft", "start"])
def test_measures_follow_from_the_raw_rows(main: Evaluation, name: str) -> None:
    rows = [row["models"][name] for row in rows_of(main)]
    gaps = [row["demo_logp"] - row["rejected_logp"] for row in rows]
    per_token = [row["demo_logp"] / row["demo_tokens"] - row["rejected_logp"] / row["rejected_tokens"] for row in rows]
    alike = [
        gap
        for gap, row in zip(gaps, rows, strict=True)
        if 0.75 <= row["demo_tokens"] / row["rejected_tokens"] <= 1 / 0.75
    ]
    assert 2 <= len(alike) < len(rows)
    expected = {
        "log-likelihood of demonstrations": sum(row["demo_logp"] for row in rows)
        / sum(row["demo_tokens"] for row in rows),
        "log-likelihood of demonstrations, whole": mean([row["demo_logp"] for row in rows]),
        "gap: log pi(chosen) - log pi(rejected)": mean(gaps),
        "gap per token": mean(per_token),
        "gap, like length": mean(alike),
        "preference accuracy": mean([float(gap > 0) for gap in gaps]),
        "preference accuracy per token": mean([float(gap > 0) for gap in per_token]),
        "preference accuracy, like length": mean([float(gap > 0) for gap in alike]),
        "log-likelihood of own answers": sum(row["sample_logp"] for row in rows)
        / sum(row["sample_tokens"] for row in rows),
        "length of answers": mean([row["sample_tokens"] for row in rows]),
        "finished answers": mean([float(row["finished"]) for row in rows]),
    }
    for measure, value in expected.items():
        row = measure_of(main, measure, name)
        assert row["value"] == pytest.approx(value, abs=1e-9), measure
        assert row["items"] == (len(alike) if "like length" in measure else len(rows))
        if row["unit"] == "share" or row["items"] >= 5:
            assert row["low"] - 1e-9 <= row["value"] <= row["high"] + 1e-9
        else:
            assert (row["low"], row["high"]) == (None, None), measure


def test_ties_count_half_and_like_length_is_a_quarter_less() -> None:
    """Gaps +1, 0, -1, 2 nats; tokens 4:4, 3:4 (like), 2:4, 4:8 (unlike)."""
    logps = (Logps(-1.0, 4, -2.0, 4), Logps(-2.0, 3, -2.0, 4), Logps(-3.0, 2, -2.0, 4), Logps(-1.0, 4, -3.0, 8))
    found = {one.name: one for one in quantities(Measured(logps, (), 0.0, 0.0, 0, 0))}
    assert found["preference accuracy"].values == (1.0, 0.5, 0.0, 1.0)
    assert found["preference accuracy"].interval().value == 2.5 / 4
    assert found["preference accuracy, like length"].values == (1.0, 0.5, None, None)
    assert found["gap, like length"].interval().value == 0.5
    # per token: -.25 + .5, -2/3 + .5, -1.5 + .5, -.25 + .375
    assert found["gap per token"].values == pytest.approx((0.25, -1 / 6, -1.0, 0.125))
    assert found["preference accuracy per token"].values == (1.0, 0.0, 0.0, 1.0)
    assert found["log-likelihood of demonstrations"].interval().value == pytest.approx(-7 / 13)


@pytest.mark.parametrize("name", ["irft-1", "start"])
def test_answers_are_what_the_model_wrote(main: Evaluation, runs: Path, name: str) -> None:
    model, tokenizer = plain(runs / name if name == "start" else runs / name / "model")
    drawn = part_of(main.folder, f"{name}-answers")
    rows = rows_of(main)
    for row, (ids, finished, _) in zip(rows, drawn, strict=True):
        told = row["models"][name]
        assert told["sample"] == tokenizer.decode(ids, skip_special_tokens=True)
        assert told["sample_tokens"] == len(ids) <= QUICK["max_new_tokens"]
        assert told["finished"] == finished == (ids[-1] == tokenizer.eos_token_id)
        prompt = chat_ids(tokenizer, row["prompt"].removeprefix("user: "))
        assert told["sample_logp"] == pytest.approx(plain_logp(model, prompt + ids, len(prompt)), abs=1e-4)
    varied, repeated = [], []
    for ids, _, _ in drawn:
        pairs = list(itertools.pairwise(ids))
        fours = list(zip(ids, ids[1:], ids[2:], ids[3:], strict=False))
        varied.append(len(set(pairs)) / len(pairs) if pairs else 0.0)
        repeated.append(1 - len(set(fours)) / len(fours) if fours else 0.0)
    assert measure_of(main, "distinct bigrams in an answer", name)["value"] == pytest.approx(mean(varied))
    assert measure_of(main, "repeated 4-grams in an answer", name)["value"] == pytest.approx(mean(repeated))
    about = next(model for model in main.record["models"] if model["name"] == name)
    assert about["sampled_tokens"] == sum(len(ids) for ids, _, _ in drawn)


def test_greedy_answers_equal_those_of_transformers_and_equal_models_tie(
    runs: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(place)
    twin = shutil.copytree(runs / "sft" / "model", tmp_path / "twin")
    found = evaluation(
        tmp_path / "out",
        model=str(runs / "sft"),
        baseline=(str(twin),),
        data=(str(place / "test.jsonl"),),
        temperature=0.0,
        max_rows=4,
        judge=("evaluate_judges:never",),
    )
    model, tokenizer = plain(runs / "sft" / "model")
    for row in rows_of(found):
        prompt = torch.tensor([chat_ids(tokenizer, row["prompt"].removeprefix("user: "))])
        expected = model.generate(prompt, max_new_tokens=6, do_sample=False, pad_token_id=0)[0, prompt.shape[1] :]
        assert row["models"]["sft"]["sample"] == tokenizer.decode(expected, skip_special_tokens=True)
        assert row["verdicts"] == {"evaluate_judges:never": {"sft over twin": 0.5}}
    ties = comparison_of(found, "win rate", "twin", "evaluate_judges:never")
    assert (ties["difference"], ties["p"], ties["items"]) == (0.5, 1.0, 4)


def test_same_seed_same_answers_other_seed_other_answers(main: Evaluation, runs: Path, place: Path) -> None:
    asked = {"model": str(runs / "irft-1"), "data": (str(place / "test.jsonl"),)}
    again, other = (evaluation(place / f"seed-{seed}", seed=seed, **asked) for seed in (42, 43))
    drawn = [[row["models"]["irft-1"]["sample"] for row in rows_of(found)] for found in (main, again, other)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert again.record["comparisons"] == []
    assert [row["key"] for row in rows_of(again)] == [row["key"] for row in rows_of(main)]


# Judges --------------------------------------------------------------------------------------------------------------


def check_wins(found: Evaluation, judge: str, baseline: str, verdicts: list[float | None]) -> None:
    """The verdicts lie in the rows, and the win rate with its exact sign test follows from them."""
    assert [row["verdicts"][judge][f"irft-1 over {baseline}"] for row in rows_of(found)] == verdicts
    known = [verdict for verdict in verdicts if verdict is not None]
    wins, losses = known.count(1.0), known.count(0.0)
    row = comparison_of(found, "win rate", baseline, judge)
    assert row["difference"] == pytest.approx(mean(known))
    assert row["p"] == pytest.approx(stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0)
    assert row["items"] == len(known)
    assert row["low"] <= row["difference"] <= row["high"]


@pytest.mark.parametrize("baseline", ["sft", "start"])
@pytest.mark.parametrize("judge", ["rft", "irft-1"])
def test_win_rates_by_a_reward(main: Evaluation, runs: Path, judge: str, baseline: str) -> None:
    rows = rows_of(main)
    rewards = [[row["models"][name]["rewards"][judge] for name in ("irft-1", baseline)] for row in rows]
    check_wins(main, judge, baseline, [(ours > theirs) + 0.5 * (ours == theirs) for ours, theirs in rewards])
    difference = comparison_of(main, "reward of answers", baseline, judge)["difference"]
    assert difference == pytest.approx(mean([ours - theirs for ours, theirs in rewards]))
    margins = [row["rewards"][judge]["demonstration"] - row["rewards"][judge]["rejected"] for row in rows]
    assert measure_of(main, "reward margin, chosen - rejected", None, judge)["value"] == pytest.approx(mean(margins))
    accuracy = measure_of(main, "preference accuracy", None, judge)
    assert accuracy["value"] == pytest.approx(mean([(margin > 0) + 0.5 * (margin == 0) for margin in margins]))


def test_rewards_are_the_reward_s_own(main: Evaluation, runs: Path, place: Path) -> None:
    """The implicit reward of irft-1 is beta (0.1) times the log-ratio to the start model, as the rows have both."""
    for row in rows_of(main):
        ours, start = row["models"]["irft-1"], row["models"]["start"]
        for side, kind in (("demonstration", "demo"), ("rejected", "rejected")):
            expected = 0.1 * (ours[f"{kind}_logp"] - start[f"{kind}_logp"])
            assert row["rewards"]["irft-1"][side] == pytest.approx(expected, abs=1e-4)


def test_win_rates_by_a_function_and_its_abstentions(main: Evaluation) -> None:
    """It scores the length and has no opinion on `tell 1` and `tell 2`."""
    judge = "evaluate_judges:length"
    for baseline in ("sft", "start"):
        verdicts: list[float | None] = []
        for row in rows_of(main):
            ours, theirs = (row["models"][name]["sample"] for name in ("irft-1", baseline))
            if ours == theirs:
                verdicts.append(0.5)
            elif row["prompt"].startswith(("user: tell 1", "user: tell 2")):
                verdicts.append(None)
            else:
                ours, theirs = len(ours), len(theirs)
                verdicts.append((ours > theirs) + 0.5 * (ours == theirs))
        check_wins(main, judge, baseline, verdicts)
    about = next(one for one in main.record["judges"] if one["name"] == judge)
    assert (about["kind"], about["note"], about["order_dependent"]) == ("function", None, None)
    silent = sum(verdict is None for row in rows_of(main) for verdict in row["verdicts"][judge].values())
    assert about["abstained"] == {"raised ValueError: no opinion": silent}
    assert silent > 0
    assert f"{judge} abstained from {silent} verdicts: raised ValueError: no opinion" in main.record["warnings"]


def test_win_rates_by_a_judge_server(runs: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server = JudgeServer()
    server.play = longer
    asked = {
        "model": str(runs / "irft-1"),
        "baseline": (str(runs / "start"),),
        "data": (str(place / "test.jsonl"),),
        "judge_url": server.url,
        "judge_model": "judge",
    }
    try:
        found = evaluation(tmp_path / "out", **asked)
        questions = len(server.asked)
        again = evaluation(tmp_path / "out", **asked)
    finally:
        server.server.shutdown()
        server.server.server_close()
    name = f"judge at {server.url}"
    lengths = [[len(row["models"][one]["sample"]) for one in ("irft-1", "start")] for row in rows_of(found)]
    check_wins(found, name, "start", [(ours > theirs) + 0.5 * (ours == theirs) for ours, theirs in lengths])
    assert found.record["judges"] == [
        {"name": name, "kind": "model", "hash": None, "note": None, "abstained": {}, "order_dependent": 0.0}
    ]
    assert len(server.asked) == questions <= 2 * PREFERENCES
    assert again.record["comparisons"] == found.record["comparisons"]


def test_a_reward_that_trained_a_model_is_named(main: Evaluation, runs: Path) -> None:
    notes = {judge["name"]: judge["note"] for judge in main.record["judges"]}
    assert notes["rft"] is None
    assert notes["irft-1"] == f"this reward trained {runs / 'irft-1' / 'model'}"
    assert f"irft-1 is no impartial judge: {notes['irft-1']}" in main.record["warnings"]


def test_a_reward_that_selected_training_data_is_named(runs: Path, place: Path, tmp_path: Path) -> None:
    select(
        load_reward(runs / "rft", bf16=False),
        [str(runs / "rows.jsonl")],
        RowReading(),
        Choice(top=8),
        tmp_path / "b.jsonl",
    )
    same = {"model": str(runs / "start"), "data": (str(tmp_path / "b.jsonl"),)}
    run(SFTConfig(output=str(tmp_path / "picked"), max_steps=1, **same, **SMALL))
    found = evaluation(
        tmp_path / "out",
        model=str(tmp_path / "picked"),
        data=(str(place / "test.jsonl"),),
        max_rows=2,
        answers=False,
        reward=(str(runs / "rft"), str(runs / "irft-2")),
    )
    notes = [(judge["name"], judge["note"]) for judge in found.record["judges"]]
    assert notes == [
        ("rft", f"this reward selected training data for {tmp_path / 'picked' / 'model'}"),
        ("irft-2", None),
    ]


# The table -----------------------------------------------------------------------------------------------------------


def test_p_values_are_corrected_together_by_holm(main: Evaluation) -> None:
    """Holm by hand: sorted p times the number of those not smaller, never falling, at most 1."""
    comparisons = main.record["comparisons"]
    assert {row["baseline"] for row in comparisons} == {"sft", "start"}
    known = sorted(row["p"] for row in comparisons if row["p"] is not None)
    corrected, highest = {}, 0.0
    for place, p in enumerate(known):
        highest = min(1.0, max(highest, p * (len(known) - place)))
        corrected[p] = highest
    for row in comparisons:
        expected = None if row["p"] is None else pytest.approx(corrected[row["p"]])
        assert row["p_corrected"] == expected


def test_differences_are_paired_by_prompt(main: Evaluation) -> None:
    rows = rows_of(main)
    whole = [row["models"]["irft-1"]["demo_logp"] - row["models"]["start"]["demo_logp"] for row in rows]
    found = comparison_of(main, "log-likelihood of demonstrations, whole", "start")
    assert found["difference"] == pytest.approx(mean(whole))
    assert found["p"] >= stats.ttest_1samp(whole, 0.0).pvalue - 1e-12  # the larger one with and without skewness
    per_token = comparison_of(main, "log-likelihood of demonstrations", "start")
    assert per_token["difference"] == pytest.approx(
        sum(whole) / sum(row["models"]["start"]["demo_tokens"] for row in rows)
    )


def test_what_lies_in_evaluation_json(main: Evaluation, place: Path) -> None:
    record = strict(main.folder / "evaluation.json")
    assert record == json.loads(json.dumps(main.record))
    assert {"created", "command", "versions", "hardware", "leaks", "warnings"} <= record.keys()
    assert record["data"]["kind"] == "preferences"
    assert (record["data"]["rows"], record["data"]["left_out"]) == (PREFERENCES, {})
    assert list(record["data"]["hashes"]) == record["data"]["sources"] == [str(place / "test.jsonl")]
    assert [(model["name"], model["role"]) for model in record["models"]] == [
        ("irft-1", "model"),
        ("sft", "baseline"),
        ("start", "baseline"),
    ]
    assert all(model["scored_tokens"] > 0 and len(model["hash"]) == 64 for model in record["models"])
    assert [leak["searched"] for leak in record["leaks"]] == [True, True, False]
    assert any("9 rows are few" in warning for warning in record["warnings"])
    assert [model["runs"] for model in record["models"]] == [1, 1, 1]
    kinds = {row["measure"]: row["kind"] for row in record["measures"]}
    assert kinds["log-likelihood of demonstrations"] == "likelihood"
    assert kinds["preference accuracy"] == kinds["gap per token"] == "preference"
    assert {row["kind"] for row in record["comparisons"]} == {*kinds.values(), "win rate"}


def test_one_row_has_no_interval_and_no_nan(runs: Path, place: Path, tmp_path: Path) -> None:
    found = evaluation(
        tmp_path / "out",
        model=str(runs / "irft-1"),
        baseline=(str(runs / "start"),),
        data=(str(place / "test.jsonl"),),
        max_rows=1,
        reward=(str(runs / "rft"),),
    )
    record = strict(found.folder / "evaluation.json")
    for row in rows_of(found):
        assert math.isfinite(row["models"]["irft-1"]["demo_logp"])
    assert measure_of(found, "log-likelihood of demonstrations", "start")["low"] is None
    assert comparison_of(found, "log-likelihood of demonstrations", "start")["p_corrected"] is None
    assert len(record["comparisons"]) > 10


# Rows ----------------------------------------------------------------------------------------------------------------


def test_rows_that_were_trained_on_are_left_out_and_named(runs: Path, tmp_path: Path) -> None:
    """Of all rows of the training file those that the runs held out are left, whatever template is asked for."""
    heldout = {row["prompt"] for row in read_rows(runs / "irft-1" / "rows.jsonl.gz") if row["heldout"]}
    asked = {"model": str(runs / "irft-1"), "data": (str(runs / "rows.jsonl"),), "answers": False}
    for template in (None, "Q: {prompt} A: "):
        found = evaluation(tmp_path / "out", template=template, **asked)
        left = read_rows(tmp_path / "out" / "left-out.jsonl")
        assert found.record["data"]["rows"] == len(rows_of(found)) == len(heldout) == 5
        assert found.record["data"]["left_out"] == {"trained on": 19}
        assert {row["detail"] for row in left} == {"the prompt was in the training data of irft-1"}
        assert sorted(int(row["source"].rpartition(":")[2]) for row in left) == sorted(
            set(range(1, 25)) - {int(row["prompt"].removeprefix("user: say ").split()[0]) + 1 for row in rows_of(found)}
        )


def test_trained_on_rows_may_be_kept_and_are_counted(runs: Path, tmp_path: Path) -> None:
    found = evaluation(
        tmp_path / "out",
        model=str(runs / "start"),
        baseline=(str(runs / "irft-1"),),
        data=(str(runs / "rows.jsonl"),),
        answers=False,
        trained_on="keep",
    )
    data = found.record["data"]
    assert (data["rows"], data["left_out"], data["trained_on_and_kept"]) == (24, {}, 19)
    assert len(read_rows(tmp_path / "out" / "left-out.jsonl")) == 19
    assert any("prompts of 19 of the 24 rows" in warning for warning in found.record["warnings"])
    (unknown, searched) = found.record["leaks"]
    assert (unknown["model"], unknown["searched"]) == ("start", False)
    assert (searched["train_rows"], searched["counts"]["same row"]) == (19, 19)


def test_no_row_left_is_an_error(runs: Path, tmp_path: Path) -> None:
    trained = {row["prompt"] for row in read_rows(runs / "sft" / "rows.jsonl.gz") if not row["heldout"]}
    rows = read_rows(runs / "rows.jsonl")
    found = evaluation(
        tmp_path / "all", model=str(runs / "sft"), data=(str(runs / "rows.jsonl"),), answers=False, max_rows=24
    )
    kept = {row["prompt"].removeprefix("user: ") for row in rows_of(found)}
    known = write_json_lines(tmp_path / "known.jsonl", [row for row in rows if row["prompt"] not in kept])
    assert len(read_rows(tmp_path / "known.jsonl")) == len(trained) == 19
    with pytest.raises(
        DemotuneError, match=r"no row of .*known.jsonl is left to measure on: trained on 19; .*left-out"
    ):
        evaluation(tmp_path / "none", model=str(runs / "sft"), data=(known,), answers=False)
    assert len(read_rows(tmp_path / "none" / "left-out.jsonl")) == 19


def test_over_long_rows_are_left_out(runs: Path, tmp_path: Path) -> None:
    """The model has 256 positions; --max-length sets less. Ten letters z are ten tokens."""
    rows = [{"prompt": f"tell {size}", "completion": "z" * size} for size in (10, 60, 300)]
    data = write_json_lines(tmp_path / "long.jsonl", rows)
    asked = {"model": str(runs / "start"), "data": (data,), "answers": False}
    for limit, reason in ((None, {"over-long": 1}), (60, {"over-long": 2})):
        found = evaluation(tmp_path / "out", max_length=limit, **asked)
        assert found.record["data"]["left_out"] == reason
    details = [row["detail"] for row in read_rows(tmp_path / "out" / "left-out.jsonl")]
    assert all(detail.endswith("tokens, start may read 60") for detail in details)


def test_demonstrations_have_no_preferences(runs: Path, tmp_path: Path) -> None:
    data = write_json_lines(tmp_path / "d.jsonl", [{"prompt": f"tell {n}", "completion": f"{n}!"} for n in range(3)])
    found = evaluation(
        tmp_path / "out", model=str(runs / "start"), data=(data,), answers=False, reward=(str(runs / "rft"),)
    )
    assert found.record["data"]["kind"] == "demonstrations"
    assert {row["measure"] for row in found.record["measures"]} == {
        "log-likelihood of demonstrations",
        "log-likelihood of demonstrations, whole",
    }
    for row in rows_of(found):
        assert "rejected" not in row
        assert row["models"]["start"].keys() == {"demo_logp", "demo_tokens"}
        assert row["rewards"]["rft"].keys() == {"demonstration"}


def test_a_lora_adapter_is_measured_with_its_base(runs: Path, place: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(runs / "start"), LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    )
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    adapted.save_pretrained(tmp_path / "adapter")
    tiny_tokenizer().save_pretrained(tmp_path / "adapter")
    found = evaluation(
        tmp_path / "out",
        model=str(tmp_path / "adapter"),
        baseline=(str(runs / "start"),),
        data=(str(place / "test.jsonl"),),
        max_rows=2,
        answers=False,
    )
    model, tokenizer = plain(runs / "start")
    with_adapter = PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
    for row in rows_of(found):
        prompt = row["prompt"].removeprefix("user: ")
        ids, told = chat_ids(tokenizer, prompt, row["demonstration"]), row["models"]
        expected = plain_logp(with_adapter, ids, len(chat_ids(tokenizer, prompt)))
        assert told["adapter"]["demo_logp"] == pytest.approx(expected, abs=1e-4)
        assert abs(told["adapter"]["demo_logp"] - told["start"]["demo_logp"]) > 1e-2


def test_a_model_with_damaged_weights_is_an_error(place: Path, tmp_path: Path) -> None:
    model = tiny_model()
    torch.nn.init.constant_(model.model.norm.weight, math.nan)
    model.save_pretrained(tmp_path / "damaged")
    tiny_tokenizer().save_pretrained(tmp_path / "damaged")
    with pytest.raises(DemotuneError, match="damaged gives 18 of 18 responses a log-probability that is not finite"):
        evaluation(tmp_path / "out", model=str(tmp_path / "damaged"), data=(str(place / "test.jsonl"),), answers=False)


# Tasks ---------------------------------------------------------------------------------------------------------------


def test_tasks_alone(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every model is asked; an item of the task that is a training row of a model is found."""
    row = read_rows(runs / "irft-1" / "stages" / "00" / "samples.jsonl.gz")[0]
    question = row["prompt"].partition("user\n")[2].partition("\n")[0]
    asked = []

    def scores(folder: Path, names: tuple[str, ...], options: TaskOptions) -> TaskScores:
        asked.append((folder, names, options.limit))
        result = TaskResult("toy", "acc", 0.25 * len(asked), 0.125, 2, 4, True, "1")
        return TaskScores(0.25 * len(asked), ("absent",), (), (result,), (result,), ())

    monkeypatch.setattr(evaluate_module, "check_task_names", lambda names, also: None)
    monkeypatch.setattr(evaluate_module, "evaluate_tasks", scores)
    monkeypatch.setattr(leaks, "task_documents", lambda names, options: {"toy": [question, "never seen before"]})
    found = evaluation(
        tmp_path / "out", model=str(runs / "irft-1"), baseline=(str(runs / "start"),), tasks=("toy",), limit=4
    )
    assert asked == [(runs / "irft-1" / "model", ("toy",), 4), (runs / "start", ("toy",), 4)]
    assert found.record["tasks"] == {
        "irft-1": {"average": 0.25, "missing": ("absent",)},
        "start": {"average": 0.5, "missing": ("absent",)},
    }
    assert strict(tmp_path / "out" / "tasks.json")["models"].keys() == {"irft-1", "start"}
    assert not (tmp_path / "out" / "rows.jsonl.gz").exists()
    searched, unknown = found.record["leaks"]
    assert (searched["test"], searched["test_rows"], searched["counts"]) == ("toy", 2, {"same prompt": 1})
    assert unknown["searched"] is False
    assert "toy, acc, 2 shots" not in capsys.readouterr().out  # a function returns; the command shows
    show_evaluation(found.folder, found.record, found.tasks)
    shown = capsys.readouterr().out
    assert "toy, acc, 2 shots" in shown
    assert "0.250 ± 0.125" in shown
    assert "1 of 2 rows of toy are like training rows of irft-1 (same prompt 1)" in shown
