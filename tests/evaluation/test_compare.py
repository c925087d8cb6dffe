"""`demotune compare`: settings and seeds from hand-made run folders with known numbers, and on rows that are given."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.command import call
from helpers.evaluations import QUICK, evaluation, measure_of, rows_of, strict
from helpers.tiny_runs import PREFERENCES, SMALL, tiny_runs, write_json_lines, write_preferences
from scipy import stats

from demotune import DemotuneError, SFTConfig, run
from demotune.common.files import read_json, write_json, write_rows
from demotune.config.evaluation import EvaluationConfig
from demotune.evaluation.compare import START, compare
from demotune.evaluation.show import show_comparison
from demotune.report.comparison_text import comparison_of
from demotune.runs.comparison import ComparisonTable, Difference, Line, read_comparison
from demotune.runs.costs import flops
from demotune.runs.run import load_finished
from demotune.runs.settings import group

LIKELIHOOD = "log-likelihood of demonstrations"
TOKENS = (2, 4, 3, 3, 8, 4)  # of six held-out rows: 24, 4 a row
AT_START = (-4.0, -9.0, -6.0, -5.0, -20.0, -10.0)


def phase(forward: int, trained: int, *, seconds: float = 10.0, **facts: Any) -> dict[str, Any]:
    counted = {"forward_tokens": forward, "trained_tokens": trained}
    return {"policy": "hash", "seconds": seconds, "peak_memory_gib": 2.0, "outputs": {}} | counted | facts


IRFT_STAGES = (
    {
        "sample": phase(1000, 0),
        "start": phase(70000, 0, seconds=90.0),
        "train": phase(0, 2000, steps=5, peak_memory_gib=3.5),
        "check": phase(9000, 0, seconds=80.0),
    },
    {"sample": phase(500, 0), "train": phase(0, 1000, steps=3), "check": phase(9000, 0)},
)
SFT_STAGES = ({"start": phase(700, 0), "train": phase(0, 3000, steps=8), "check": phase(700, 0)},)


def make_run(
    folder: Path,
    method: str = "irft",
    *,
    gains: Sequence[float] = (),
    seed: int = 1,
    start: str = "a" * 64,
    stages: Sequence[Mapping[str, Any]] = (),
    keys: str = "abcdef",
    best_stage: int | None = None,
    finished: bool = True,
    **config: Any,
) -> Path:
    """A run whose result has the start model's log-probabilities of the held-out rows plus `gains`."""
    fields = {"method": method, "model": "org/start", "data": ["d.jsonl"], "output": str(folder), "seed": seed}
    fields |= {"use_peft": False, "template": None, "learning_rate": 1e-5, "run_name": None} | config
    about = {
        **dict.fromkeys(("created", "command", "rows_file", "rows"), ""),
        "versions": {},
        "hardware": {},
        "data": {},
    }
    begun = {"version": 1, "config": fields, "model": start, "parameters": 1000, "processes": 1}
    write_json(folder / "manifest.json", about | begun)
    stages = stages or (SFT_STAGES if method == "sft" else IRFT_STAGES)
    best_stage = len(stages) - 1 if best_stage is None else best_stage
    for number, phases in enumerate(stages):
        write_json(folder / "stages" / f"{number:02d}" / "state.json", {"check": phase(0, 0), **phases})
    if finished:
        places = {"run_folder": str(folder), "model_folder": str(folder / "model"), "reward_folder": None}
        facts = dict.fromkeys(("start_nll_per_token", "estimate", "profile"))
        found = {"method": method, "best_stage": best_stage, "stages": []}
        write_json(folder / "summary.json", places | facts | found)
    gains = gains or (0.0,) * len(keys)
    texts = {**dict.fromkeys(("prompt", "demonstration", "sample"), "text"), "sample_ids": [1], "finished": True}
    for file, added in (("00/start", (0.0,) * len(keys)), (f"{best_stage:02d}/heldout", gains)):
        rows = [
            {"key": key, "demo_logp": logp + gain, "demo_tokens": tokens, **texts}
            for key, logp, tokens, gain in zip(keys, AT_START, TOKENS, added, strict=False)
        ]
        write_rows(folder / "stages" / f"{file}.jsonl.gz", rows)
    return folder


def line_of(table: ComparisonTable, setting: str) -> Line:
    (line,) = (line for line in table.lines if line.setting == setting)
    return line


def difference_of(table: ComparisonTable, setting: str, baseline: str, measure: str = LIKELIHOOD) -> Difference:
    (found,) = (
        one for one in table.differences if (one.setting, one.baseline, one.measure) == (setting, baseline, measure)
    )
    return found


def holm_by_hand(ps: Sequence[float]) -> dict[float, float]:
    corrected, highest = {}, 0.0
    for place, p in enumerate(sorted(ps)):
        highest = min(1.0, max(highest, p * (len(ps) - place)))
        corrected[p] = highest
    return corrected


# Settings ------------------------------------------------------------------------------------------------------------


def test_runs_that_differ_in_their_seed_are_one_setting(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "one", seed=1, beta=0.1, run_name="first", save_steps=10),
        make_run(tmp_path / "two", seed=2, beta=0.1, run_name="second", save_steps=99),
        make_run(tmp_path / "three", seed=1, beta=0.5),
        make_run(tmp_path / "spin", "spin", seed=1, beta=0.5, learning_rate=1.0),
    ]
    settings = group([load_finished(run) for run in runs])
    assert [setting.label for setting in settings] == ["irft beta=0.1", "irft beta=0.5", "spin"]
    assert [[run.seed for run in setting.runs] for setting in settings] == [[1, 2], [1], [1]]


def test_the_start_model_counts_by_its_content(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", seed=1, model="here")
    moved = make_run(tmp_path / "two", seed=2, model="there")
    other = make_run(tmp_path / "three", seed=3, start="b" * 64, model="here")
    settings = group([load_finished(run) for run in (one, moved, other)])
    assert [setting.label for setting in settings] == ["irft model=aaaaaaaa", "irft model=bbbbbbbb"]
    assert [len(setting.runs) for setting in settings] == [2, 1]


def test_results_of_runs_that_differ_in_their_seed_are_one_start_model(tmp_path: Path) -> None:
    """As in a sweep whose methods start from SFT of the same seed; a folder that was made anew later is not that."""
    runs = []
    for seed, start in ((1, "b" * 64), (2, "c" * 64)):
        sft = make_run(tmp_path / f"sft-{seed}", "sft", seed=seed)
        runs += [sft, make_run(tmp_path / f"irft-{seed}", seed=seed, model=str(sft), start=start)]
    other = make_run(tmp_path / "sft-other", "sft", learning_rate=1.0)
    runs.append(make_run(tmp_path / "irft-3", seed=3, model=str(other / "model"), start="d" * 64))
    (other / "model").mkdir()
    settings = group([load_finished(run) for run in runs])
    assert [(setting.runs[0].method, len(setting.runs)) for setting in settings] == [
        ("sft", 2),
        ("irft", 2),
        ("irft", 1),
    ]
    begun = json.loads((tmp_path / "sft-2" / "manifest.json").read_text()) | {"created": "later"}
    write_json(tmp_path / "sft-2" / "manifest.json", begun)
    assert [len(setting.runs) for setting in group([load_finished(run) for run in runs])] == [2, 1, 1, 1]


def test_on_test_rows_results_of_runs_start_from_what_the_first_run_began_with(runs: Path, tmp_path: Path) -> None:
    later = tmp_path / "later"
    fields: dict[str, Any] = {"model": str(runs / "sft"), "data": (str(runs / "rows.jsonl"),), "max_steps": 1}
    run(SFTConfig(output=str(later), **fields, **SMALL))
    data = write_preferences(tmp_path / "test.jsonl")
    on = EvaluationConfig(model=str(later), data=(data,), output=str(tmp_path / "out"), bf16=False)
    table = compare([runs / "sft", later], on=on)
    alone = compare([runs / "sft"], on=on)
    assert line_of(table, START).qualities == line_of(alone, START).qualities


def test_controls_belong_to_the_setting_of_their_runs(tmp_path: Path) -> None:
    """Their batch sizes differ by seed, they are one setting all the same; an SFT run of its own is another."""
    runs = [
        make_run(tmp_path / "a", seed=1),
        make_run(tmp_path / "a-control-sft", "sft", seed=1, per_device_train_batch_size=7),
        make_run(tmp_path / "b", seed=2),
        make_run(tmp_path / "b-control-sft", "sft", seed=2, per_device_train_batch_size=8),
        make_run(tmp_path / "mine", "sft", seed=1),
        make_run(tmp_path / "lost-control-sft", "sft", seed=1, learning_rate=3.0),
    ]
    settings = group([load_finished(run) for run in runs])
    assert [(setting.label, len(setting.runs)) for setting in settings] == [
        ("irft", 2),
        ("sft, control of irft", 2),
        ("sft learning_rate=1e-05", 1),
        ("sft learning_rate=3.0", 1),
    ]
    assert [setting.control_of for setting in settings] == [None, "irft", None, None]
    assert [setting.fields for setting in settings] == [{}, {}, {"learning_rate": 1e-05}, {"learning_rate": 3.0}]


# Cost ----------------------------------------------------------------------------------------------------------------


def test_cost_by_hand(tmp_path: Path) -> None:
    """Forward 1000 + 500, trained 2000 + 1000, 1000 parameters; what start and check did is left out."""
    cost = load_finished(make_run(tmp_path / "full")).cost
    assert (cost.steps, cost.forward_tokens, cost.trained_tokens) == (8, 1500, 3000)
    assert cost.flops == 1000 * (2 * 1500 + 6 * 3000)
    assert (cost.seconds, cost.peak_memory_gib) == (40.0, 3.5)
    assert load_finished(make_run(tmp_path / "lora", use_peft=True)).cost.flops == 1000 * (2 * 1500 + 4 * 3000)
    assert flops(7, 11, 13, adapter=False) == 7 * (22 + 78)


def test_steps_of_reward_and_policy_add_up(tmp_path: Path) -> None:
    stages = ({"sample": phase(1, 0, steps=99), "reward": phase(1, 2, steps=5), "policy": phase(3, 4, steps=7)},)
    cost = load_finished(make_run(tmp_path / "rft", "rft", stages=stages)).cost
    assert (cost.steps, cost.forward_tokens, cost.trained_tokens) == (12, 5, 6)


def test_costs_are_means_over_seeds_and_memory_is_the_most(tmp_path: Path) -> None:
    more = ({"train": phase(100, 5000, steps=11, seconds=60.0, peak_memory_gib=9.0)},)
    runs = [make_run(tmp_path / "one", seed=1), make_run(tmp_path / "two", seed=2, stages=more)]
    cost = line_of(compare(runs), "irft").cost
    assert cost is not None
    assert (cost.trained_tokens, cost.forward_tokens, cost.seconds, cost.peak_memory_gib) == (4000, 800, 50.0, 9.0)
    assert cost.steps in (9, 10)
    assert cost.flops == (1000 * (3000 + 18000) + 1000 * (200 + 30000)) / 2


# Held-out rows -------------------------------------------------------------------------------------------------------

GAINS = (0.5, 1.0, 0.0, -0.5, 3.0, 2.0)  # sum 6
MORE = (1.0, 1.5, 0.5, 0.5, 4.0, 1.5)  # sum 9
SFT_GAINS = (0.5, 0.5, 0.5, 0.0, 1.0, 0.5)  # sum 3


def test_quality_and_differences_by_hand(tmp_path: Path) -> None:
    """Sums over 24 tokens: start -54, sft -51, irft -48 and -45."""
    runs = [
        make_run(tmp_path / "irft-1", gains=GAINS, seed=1),
        make_run(tmp_path / "irft-2", gains=MORE, seed=2),
        make_run(tmp_path / "sft", "sft", gains=SFT_GAINS, seed=1),
    ]
    table = compare(runs)
    assert (table.rows, table.prompts, table.baseline) == ("the 6 held-out rows of the runs", 6, "sft")
    assert table.units == {LIKELIHOOD: "nats/token"}
    assert [(line.setting, line.seeds) for line in table.lines] == [(START, ()), ("irft", (1, 2)), ("sft", (1,))]
    values = [line.qualities[LIKELIHOOD].value for line in table.lines]
    assert values == pytest.approx([-54 / 24, -46.5 / 24, -51 / 24])
    assert line_of(table, START).cost is None
    assert {(one.setting, one.baseline) for one in table.differences} == {
        ("irft", "sft"),
        ("irft", START),
        ("sft", START),
    }
    assert difference_of(table, "irft", "sft").found.difference.value == pytest.approx(4.5 / 24)
    assert difference_of(table, "irft", START).found.difference.value == pytest.approx(7.5 / 24)
    sft = difference_of(table, "sft", START).found
    assert sft.difference.value == pytest.approx(3 / 24)
    assert sft.items == 6
    assert sft.p >= stats.ttest_1samp(SFT_GAINS, 0).pvalue - 1e-12
    assert "single runs" in sft.test
    corrected = holm_by_hand([one.found.p for one in table.differences])
    assert [one.p_corrected for one in table.differences] == pytest.approx(
        [corrected[one.found.p] for one in table.differences]
    )


def test_without_an_sft_run_the_start_model_is_the_baseline(tmp_path: Path) -> None:
    table = compare([make_run(tmp_path / "irft", gains=GAINS)])
    assert table.baseline == START
    assert [(one.setting, one.baseline) for one in table.differences] == [("irft", START)]
    assert any("no SFT run of equal cost" in note for note in table.notes)


def test_each_setting_is_compared_with_its_own_control(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "irft", gains=GAINS),
        make_run(tmp_path / "spin", "spin", gains=MORE),
        make_run(tmp_path / "irft-control-sft", "sft", gains=SFT_GAINS),
        make_run(tmp_path / "spin-control-sft", "sft", gains=GAINS),
    ]
    table = compare(runs)
    assert table.baseline == "sft, control of irft"
    assert difference_of(table, "irft", "sft, control of irft").found.difference.value == pytest.approx(3 / 24)
    assert difference_of(table, "spin", "sft, control of spin").found.difference.value == pytest.approx(3 / 24)
    assert difference_of(table, "spin", "sft, control of irft").found.difference.value == pytest.approx(6 / 24)
    assert not [one for one in table.differences if (one.setting, one.baseline) == ("irft", "sft, control of spin")]


def test_the_best_stage_counts(tmp_path: Path) -> None:
    run = make_run(tmp_path / "irft", gains=GAINS, best_stage=0)
    assert line_of(compare([run]), "irft").qualities[LIKELIHOOD].value == pytest.approx(-48 / 24)


def test_ranks_over_the_same_seeds(tmp_path: Path) -> None:
    """Seed 1: irft before spin; seed 2: spin before irft; sft last. The seeds are given in any order."""
    runs = [
        make_run(tmp_path / "i2", gains=GAINS, seed=2),
        make_run(tmp_path / "i1", gains=MORE, seed=1),
        make_run(tmp_path / "s1", "spin", gains=GAINS, seed=1),
        make_run(tmp_path / "s2", "spin", gains=MORE, seed=2),
        make_run(tmp_path / "b1", "sft", gains=SFT_GAINS, seed=1),
    ]
    assert [line.rank for line in compare(runs).lines] == [None] * 4
    table = compare([*runs, make_run(tmp_path / "b2", "sft", gains=SFT_GAINS, seed=2)])
    found = {line.setting: (line.rank, line.best_share) for line in table.lines}
    assert found == {START: (None, None), "irft": (1.5, 0.5), "spin": (1.5, 0.5), "sft": (3.0, 0.0)}


def test_notes_say_what_the_table_does_not_show(tmp_path: Path) -> None:
    large = ({"train": phase(0, 9000, steps=8)},)
    notes = " ".join(
        compare(
            [
                make_run(tmp_path / "irft", gains=GAINS),
                make_run(tmp_path / "sft", "sft", gains=SFT_GAINS, stages=large, start="b" * 64),
            ]
        ).notes
    )
    assert "single runs, which say nothing about other seeds: irft, sft" in notes
    assert "the held-out rows also chose each run's best stage" in notes
    assert "sft took 2.6 times the operations of irft: not equal compute" in notes
    assert f"different models: the start model of the table is that of {tmp_path / 'irft'}" in notes
    assert "--control sft" not in notes
    alike = [make_run(tmp_path / f"s{seed}", "sft", gains=GAINS, seed=seed) for seed in (1, 2)]
    (only,) = compare(alike).notes
    assert only.startswith("the held-out rows also chose")


def test_a_comparison_in_json_has_no_nan(tmp_path: Path) -> None:
    """All gains equal: no effect size can be told."""
    table = compare([make_run(tmp_path / "irft", gains=(1.0,) * 6)], file=tmp_path / "comparison.json")
    assert math.isnan(table.differences[0].found.effect_size)
    kept = strict(tmp_path / "comparison.json")
    assert repr(read_comparison(tmp_path)) == repr(table)  # repr, since nan is not itself
    assert kept["command"].startswith("demotune")
    assert kept["differences"][0]["found"]["effect_size"] is None
    assert kept["lines"][1]["qualities"][LIKELIHOOD]["value"] == pytest.approx(-48 / 24)
    assert kept["lines"][1]["cost"]["flops"] == 21e6


def test_four_rows_are_too_few_and_no_nan_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make_run(tmp_path / name, name, gains=GAINS[:4], keys="abcd") for name in ("irft", "sft")]
    table = compare(runs)
    assert not any(line.qualities[LIKELIHOOD].known for line in table.lines)
    assert all(math.isnan(one.p_corrected) for one in table.differences)
    show_comparison(table)
    page = comparison_of(table)
    assert f"{LIKELIHOOD}: irft against sft, 0.000 (too few rows to tell)." in page.sentences
    shown = capsys.readouterr().out + repr((page.columns, page.rows, page.sentences))
    assert "too few rows to tell" in shown and not re.search(r"\bnan\b", shown)


def test_equal_gains_show_no_nan(tmp_path: Path) -> None:
    """What six prompts would have shown is not known where none differs from another."""
    page = comparison_of(compare([make_run(tmp_path / "irft", gains=(1.0,) * 6)]))
    (sentence,) = (text for text in page.sentences if "p =" in text)
    assert "(corrected p = 0.031; sign test (all differences are equal)" in sentence


# What cannot be compared ---------------------------------------------------------------------------------------------


def test_runs_that_cannot_be_compared(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one")
    unfinished = make_run(tmp_path / "unfinished", seed=2, finished=False)
    twin = make_run(tmp_path / "twin")
    others = make_run(tmp_path / "others", seed=3, keys="abcdeg")
    empty = make_run(tmp_path / "empty", seed=5, keys="")
    single = make_run(tmp_path / "single", seed=6, keys="a")
    for runs, message in (
        ([one, tmp_path / "gone"], "gone holds no run; name the folder that a run wrote with --output"),
        ([one, unfinished], f"unfinished is an unfinished run; finish it with: demotune resume {unfinished}"),
        ([one, tmp_path / "twin" / ".." / "one"], "one is named twice; name each run once"),
        ([one, twin], "one, .*twin are runs of one setting and one seed: the same run twice"),
        ([one, others], "others and .*one held out different rows; compare them on test rows: --data FILE"),
        ([one, empty], "empty and .*one held out different rows"),
        ([empty], "these runs held nothing out; compare them on test rows: --data FILE"),
        ([single], "these runs held one row out, which says nothing"),
    ):
        with pytest.raises(DemotuneError, match=message):
            compare(runs)


def test_data_needs_one_start_model_and_one_template(tmp_path: Path) -> None:
    on = EvaluationConfig(model="m", data=("d",), output=str(tmp_path / "out"))
    one = make_run(tmp_path / "one")
    for other, message in (
        (make_run(tmp_path / "two", seed=2, start="b" * 64), "start from different models .*one from org/start, "),
        (make_run(tmp_path / "three", seed=3, template="{prompt}!"), "have different prompt templates"),
    ):
        with pytest.raises(DemotuneError, match=message):
            compare([one, other], on=on)


# On data -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs(tmp_path_factory)


def test_on_data_it_gives_the_numbers_of_evaluate(runs: Path, tmp_path: Path) -> None:
    data = write_preferences(tmp_path / "test.jsonl")
    on = EvaluationConfig(model="-", data=(data,), output=str(tmp_path / "out"), **QUICK)
    table = compare([runs / "irft-1", runs / "irft-2", runs / "rft", runs / "sft"], on=on)
    assert (table.rows, table.prompts, table.baseline) == (f"{PREFERENCES} rows of test.jsonl", PREFERENCES, "sft")
    assert [line.setting for line in table.lines] == [START, "irft", "rft", "sft"]
    found = evaluation(
        tmp_path / "evaluated",
        model=str(runs / "irft-1"),
        baseline=tuple(str(runs / name) for name in ("irft-2", "rft", "sft", "start")),
        data=(data,),
        answers=False,
    )
    names = {START: ("start",), "irft": ("irft-1", "irft-2"), "rft": ("rft",), "sft": ("sft",)}
    compared = [LIKELIHOOD, "gap: log pi(chosen) - log pi(rejected)", "gap per token", "preference accuracy"]
    assert list(table.units) == compared
    for line in table.lines:
        for measure in compared:
            values = [measure_of(found, measure, name)["value"] for name in names[line.setting]]
            assert line.qualities[measure].value == pytest.approx(sum(values) / len(values), abs=1e-9)
    rows = [row["models"] for row in rows_of(found)]
    gaps = [
        {name: models[name]["demo_logp"] - models[name]["rejected_logp"] for name in ("rft", "sft")} for models in rows
    ]
    told = difference_of(table, "rft", "sft", compared[1]).found
    assert told.difference.value == pytest.approx(sum(gap["rft"] - gap["sft"] for gap in gaps) / len(gaps))
    assert len(table.differences) == 4 * (2 + 3)


def test_on_data_the_start_model_must_be_there_as_it_was(runs: Path, tmp_path: Path) -> None:
    """And two rows at least."""
    row = {"prompt": "tell", "completion": "me"}
    on = EvaluationConfig(
        model="-", data=(write_json_lines(tmp_path / "d.jsonl", [row]),), output=str(tmp_path / "out"), **QUICK
    )
    with pytest.raises(DemotuneError, match="one row is left to compare on"):
        compare([runs / "irft-1"], on=on)
    run = tmp_path / "run"
    for name in ("manifest.json", "summary.json", "run.yaml"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_bytes((runs / "irft-1" / name).read_bytes())
    (run / "model").symlink_to(runs / "irft-1" / "model")
    manifest = read_json(run / "manifest.json")
    write_json(run / "manifest.json", manifest | {"model": "c" * 64})
    with pytest.raises(DemotuneError, match=r"start is not the model that .*run started from any more; put it back"):
        compare([run], on=on)


# Command line --------------------------------------------------------------------------------------------------------


def test_the_command(tmp_path: Path) -> None:
    runs = [
        str(make_run(tmp_path / "irft-1", gains=GAINS, seed=1, data=["[bold]x[/bold].jsonl"])),
        str(make_run(tmp_path / "irft-2", gains=MORE, seed=2, data=["[bold]x[/bold].jsonl"])),
        str(make_run(tmp_path / "irft-3", gains=MORE, seed=1, data=["y.jsonl"])),
        str(make_run(tmp_path / "sft", "sft", gains=SFT_GAINS, seed=1)),
    ]
    code, shown = call("compare", *runs, "--output", str(tmp_path / "out"))
    assert code == 0, shown
    for text in (
        "irft data=['[bold]x[/bold].jsonl']",
        "minus sft",
        "-1.938",
        "0.188",
        "3,000",
        "21 MFLOP",
        "start model",
    ):
        assert text in shown
    assert strict(tmp_path / "out" / "comparison.json")["prompts"] == 6


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["gone"], "gone holds no run; name the folder that a run wrote with --output"),
        (["one", "one"], "one is named twice; name each run once"),
        (["one", "--data", "d.jsonl"], "--data needs --output: what is measured there is kept and used again"),
        (["one", "--data", "d.jsonl", "--output", "out"], "d.jsonl does not exist"),
        (["one", "--data", "d/d", "--output", "out"], "the hub did not give it"),
        (["one", "--control", "sft"], "one took no step of training, so there is nothing to control for"),
    ],
    ids=" ".join,
)
def test_wrong_input_gets_one_line_that_names_the_fix(
    arguments: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "one", model="org/start-that-nobody-has", stages=({"train": phase(0, 0, steps=0)},))
    code, shown = call("compare", *arguments)
    assert code == 1
    assert "error: " in shown
    assert expected in shown
    assert "Traceback" not in shown
