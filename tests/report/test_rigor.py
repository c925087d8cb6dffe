"""The rigor card: no yes without evidence in the files, and each evidence that goes takes its yes along."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.outside import OUTSIDE
from helpers.report_folders import FIVE, write_run

from demotune.common.errors import DemotuneError
from demotune.common.files import write_json, write_rows
from demotune.config.evaluation import EvaluationConfig
from demotune.config.methods import IRFTConfig, as_dict
from demotune.report.rigor.card import EVALUATION as EVALUATION_LACKS
from demotune.report.rigor.card import (
    FINDERS,
    PEOPLE,
    RigorAnswer,
    RigorCount,
    checklist,
    count_answers,
    rigor_card,
    write_card,
)

REAL = OUTSIDE / "design/rigor_checklist.json"
START, RESULT, OTHER, ROWS, TEST = ("".join([digit] * 64) for digit in "abcde")
VERSIONS = {"python": "3.11", "demotune": "0.1.0", "torch": "2.8", "transformers": "5.20"}
HARDWARE = {"cpu": "two cores", "device": "cpu"}
REFUSED = [{"source": "rows.jsonl:4", "reason": "over-long", "detail": "9 tokens"}]
RUN, EVALUATION, COMPARISON = "irft", "ev", "comparison.json"


def rich_run(root: Path) -> None:
    """A run that keeps all that a run can keep; its second stage is worse than its first."""
    config = as_dict(IRFTConfig(model="owner/start", data=("rows.jsonl",), output="out", bf16=False, seed=7))
    manifest = {
        "command": "demotune irft --model owner/start",
        "versions": VERSIONS,
        "hardware": HARDWARE,
        "config": config,
        "model": START,
        "data": {"rows.jsonl": ROWS},
    }
    run = write_run(
        root,
        config=config,
        manifest=manifest,
        refused=REFUSED,
        **FIVE,
        stages=[(-8.0, -18.5, -29.0, -9.0, -9.0), (-9.0, -19.0, -30.5, -9.0, -9.0)],
    )
    edit(run / "stages/01/check.json", ("gate", "verdict"), "worse")
    for stage in ("00", "01"):
        for phase in ("sample", "score", "check"):
            edit(run / f"stages/{stage}/state.json", (phase, "outputs"), {f"{phase}.jsonl.gz": ROWS})
        edit(run / f"stages/{stage}/state.json", ("train", "outputs", "model"), RESULT)
    edit(run / "summary.json", ("best_stage",), 0)
    write_rows(run / "rows.jsonl.gz", [{"key": k, "prompt": k, "heldout": k > "b"} for k in "abcd"])
    (run / "model").mkdir()
    (run / "model/chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    interval = {"value": 0.7, "low": 0.5, "high": 0.9}
    shortcut = {"name": "length", "auc": interval, "accuracy": interval}
    worse = {"name": "end token", "auc": interval, "accuracy": {"value": 0.5, "low": 0.4, "high": 0.6}}
    verdict = {"verdict": "better than its shortcuts", "shortcut": "length", "pairs": 40, "p": 0.02,
               "sentence": "Better.", "reward_accuracy": interval, "shortcut_accuracy": interval,
               "reward_only": 9, "shortcut_only": 1}  # fmt: skip
    stages = [{"stage": 0, "prompts": 40, "shortcuts": [worse, shortcut], "reward": verdict}]
    write_json(run / "shortcuts.json", stages)


def rich_evaluation(root: Path) -> None:
    """Test rows with a reward as judge, and two tasks; nothing leaked."""
    root.mkdir()
    config = json.loads(json.dumps(vars(EvaluationConfig(model="m", output="o", data=("t.jsonl",), bf16=False))))
    cost = {"seconds": 2.0, "peak_memory_gib": 1.5, "sampled_tokens": 90, "scored_tokens": 80}
    names = {"irft": RESULT, "sft": OTHER}
    ends = {"low": -1.6, "high": -1.4, "items": 3}
    tested = {"model": "irft", "baseline": "sft", "items": 3, "p": 0.01, "p_corrected": 0.02, "effect_size": 0.4,
              "smallest_difference": 0.2, "test": "t"}  # fmt: skip
    searched = {"searched": True, "test_rows": 3, "train_rows": 9, "leaked": 0, "counts": {"near prompt": 0},
                "matches": [], "not_searched": []}  # fmt: skip
    win_rate = {"measure": "win rate", "kind": "win rate", "judge": "rft"}
    likelihood = {"measure": "log-likelihood of demonstrations", "kind": "likelihood", "judge": None}
    record = {
        "command": "demotune evaluate --model m",
        "config": config | {"template": "{prompt}"},
        "versions": VERSIONS,
        "hardware": HARDWARE,
        "data": {"sources": ["t.jsonl"], "hashes": {"t.jsonl": TEST}, "kind": "demonstrations", "rows": 3,
                 "left_out": {"duplicate": 1}},
        "models": [{"name": name, "hash": digest, "role": "model", "runs": 1} | cost for name, digest in names.items()],
        "judges": [{"name": "rft", "kind": "reward", "hash": OTHER, "note": None, "abstained": {}}],
        "measures": [likelihood | ends | {"model": name, "value": -1.5, "unit": "nats/token", "higher_is_better": True}
                     for name in names],
        "comparisons": [
            likelihood | tested | {"difference": 0.1, "low": 0.05, "high": 0.15},
            win_rate | tested | {"difference": 0.7, "low": 0.6, "high": 0.8},
        ],
        "warnings": [],
        "leaks": [searched | {"model": name, "test": test} for name in names for test in ("the rows", "arc", "gsm")],
    }  # fmt: skip
    write_json(root / "evaluation.json", record)
    rows = [{"key": str(row), "source": f"t.jsonl:{row}", "prompt": "p", "demonstration": "d"} for row in range(3)]
    write_rows(root / "rows.jsonl.gz", [row | {"models": {}, "rewards": {}, "verdicts": {}} for row in rows])
    score = {"metric": "acc", "value": 0.5, "stderr": 0.1, "few_shots": 0, "items": 9}
    scores = [score | {"task": task} for task in ("arc", "gsm")]
    told = {"average": None, "missing": [], "notes": [], "headline": scores, "results": scores}
    write_json(root / "tasks.json", {"harness": "lm-eval", "options": {}, "models": dict.fromkeys(names, told)})
    write_rows(root / "task-rows.jsonl.gz", [{"model": "irft", "task": "arc", "doc_id": 0}])


def rich_comparison(file: Path) -> None:
    """IRFT with two numbers of stages, SPIN, SFT of nearly the same tokens; two seeds each."""
    interval = {"value": -1.4, "low": -1.5, "high": -1.3}

    def line(
        setting: str,
        trained: int,
        rank: float,
        *,
        fields: Mapping[str, Any] | None = None,
        control_of: str | None = None,
    ) -> dict[str, Any]:
        cost = {"steps": 3, "trained_tokens": trained, "forward_tokens": 0, "flops": 1e12, "seconds": 3.0}
        runs = [f"/home/anna/{setting}-{seed}" for seed in (1, 2)]
        of = {
            "method": setting.split(maxsplit=1)[0].rstrip(","),
            "fields": dict(fields or {}),
            "control_of": control_of,
        }
        return {"setting": setting, **of, "runs": runs, "seeds": [1, 2], "qualities": {"l": interval}, "rank": rank,
                "best_share": 0.5, "cost": cost | {"peak_memory_gib": 1.0}}  # fmt: skip

    start = {"setting": "start model", "method": None, "fields": {}, "control_of": None, "runs": [],
             "seeds": [], "qualities": {"l": interval}, "rank": None,
             "best_share": None, "cost": None}  # fmt: skip
    settings = [
        line("irft stages=2", 1000, 1.0, fields={"stages": 2}),
        line("irft stages=4", 1000, 2.0, fields={"stages": 4}),
        line("spin", 1000, 3.0),
        line("sft, control of irft stages=2", 1090, 4.0, control_of="irft stages=2"),
    ]
    found = {"difference": {"value": 0.1, "low": 0.05, "high": 0.15}, "p": 0.01, "effect_size": 0.4, "smallest": 0.2,
             "items": 3, "test": "t"}  # fmt: skip
    differences = [{"measure": "l", "setting": one["setting"], "baseline": "sft", "found": found, "p_corrected": 0.03}
                   for one in settings[:3]]  # fmt: skip
    write_json(
        file,
        {"rows": "the 3 held-out rows of the runs", "prompts": 3, "units": {"l": "nats/token"}, "baseline": "sft",
         "command": "demotune compare a b", "versions": {}, "lines": [start, *settings],
         "differences": differences, "notes": []},
    )  # fmt: skip


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rich")
    rich_run(folder / RUN)
    rich_evaluation(folder / EVALUATION)
    rich_comparison(folder / COMPARISON)
    return folder


@pytest.fixture
def rich(prepared: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(prepared, tmp_path / "rich"))


def card_of(folder: Path) -> dict[str, RigorAnswer]:
    return {one.key: one for one in rigor_card([folder / RUN], [folder / EVALUATION], folder / COMPARISON)}


GONE = object()
NEVER = {key for asked in checklist()["checklist"].values() for key, one in asked.items() if "unanswerable" in one}
"""Questions that no file of a run answers."""


def edit(file: Path, path: tuple[str | int, ...], value: object) -> None:
    """Set a field of a JSON or YAML file, or take it out."""
    is_yaml = file.suffix == ".yaml"
    record = yaml.safe_load(file.read_text(encoding="utf-8"))
    place = record
    for step in path[:-1]:
        place = place[step]
    if value is GONE:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    if is_yaml:
        file.write_text(yaml.safe_dump(record), encoding="utf-8")
    else:
        write_json(file, record)


def test_every_question_that_files_can_answer_is_answered_by_rich_files(rich: Path) -> None:
    card = card_of(rich)
    assert {key for key, one in card.items() if one.answer == "yes"} == set(FINDERS)
    assert all(card[key].evidence for key in FINDERS)
    assert {key for key, one in card.items() if one.answer == "no"} == NEVER
    assert "anna" not in str(card)


JSON, META = "ev/evaluation.json", "irft/manifest.json"
STATE, CHECK = "irft/stages/00/state.json", "irft/stages/00/check.json"
Damage = tuple[str, tuple[str | int, ...], object]
DAMAGES: list[tuple[str, list[Damage]]] = [
    ("environment_specified", [(META, ("config", "bf16"), None)]),
    ("environment_specified", [(META, ("versions", "torch"), "not installed")]),
    ("environment_specified", [(META, ("hardware",), {})]),
    ("environment_specified", [(JSON, ("config", "bf16"), None)]),
    ("reproduction_instructions", [(META, ("command",), "python train.py")]),
    ("reproduction_instructions", [(META, ("versions", "demotune"), "not installed")]),
    ("reproduction_instructions", [(META, ("config", "model"), "/home/anna/start")]),
    ("reproduction_instructions", [(JSON, ("command",), GONE)]),
    ("reproduction_instructions", [(COMPARISON, ("command",), "")]),
    ("confidence_intervals_or_error_bars", [("irft/stages/00/heldout.jsonl.gz", (), GONE)]),
    ("confidence_intervals_or_error_bars", [(JSON, ("measures", 1, "low"), None)]),
    ("confidence_intervals_or_error_bars", [("ev/tasks.json", ("models", "irft", "headline", 0, "stderr"), None)]),
    ("confidence_intervals_or_error_bars", [(COMPARISON, ("lines", 2, "qualities", "l", "low"), None)]),
    ("significance_tests", [(JSON, ("comparisons", 0, "p"), None)]),
    ("significance_tests", [(COMPARISON, ("differences", 1, "found", "p"), None)]),
    ("effect_sizes_reported", [(JSON, ("comparisons", 1, "effect_size"), None)]),
    ("sample_size_justified", [(JSON, ("comparisons", 1, "smallest_difference"), None)]),
    ("sample_size_justified", [(COMPARISON, ("differences", 0, "found", "smallest"), None)]),
    ("variance_reported", [(COMPARISON, ("lines", 3, "seeds"), [1])]),
    ("baselines_included", [(COMPARISON, ("lines", 3), GONE)]),
    ("baselines_included", [(COMPARISON, ("lines", 4), GONE)]),
    ("baselines_included", [(COMPARISON, ("lines", 0), GONE)]),
    ("ablation_study", [(COMPARISON, ("lines", 2, "fields"), {"stages": 4, "link": "nce"})]),
    ("ablation_study", [(COMPARISON, ("lines", 1, "fields"), {"stages": 2, "beta": 0.1}),
                        (COMPARISON, ("lines", 2, "fields"), {"stages": 4, "beta": 0.5})]),
    ("ablation_study", [(COMPARISON, ("lines", 1, "fields"), {"model": "aa"}),
                        (COMPARISON, ("lines", 2, "fields"), {"model": "bb"})]),
    ("ablation_study", [(COMPARISON, ("lines", 2, "method"), "spin")]),
    ("ablation_study", [(COMPARISON, ("lines", 2, "control_of"), "spin")]),
    ("multiple_metrics", [(CHECK, ("reward",), GONE), (CHECK, ("gate",), GONE), (JSON, ("comparisons",), []),
                          ("ev/tasks.json", (), GONE)]),
    ("held_out_test_set", [(JSON, ("leaks", 0, "counts"), {"same prompt": 1})]),
    ("held_out_test_set", [("irft/rows.jsonl.gz", (), GONE)]),
    ("per_category_breakdown", [("ev/tasks.json", (), GONE)]),
    ("negative_results_reported", [("irft/stages/01/check.json", ("gate", "verdict"), "no clear change")]),
    ("alternative_explanations_discussed", [(COMPARISON, ("lines", 4, "cost", "trained_tokens"), 1101)]),
    ("alternative_explanations_discussed", [("irft/shortcuts.json", (0, "shortcuts"), [])]),
    ("proxy_outcome_distinction", [(CHECK, ("nll_per_token",), GONE)]),
    ("proxy_outcome_distinction", [(JSON, ("judges", 0, "kind"), "function")]),
    ("model_versions_specified", [(META, ("model",), "owner/start")]),
    ("model_versions_specified", [(JSON, ("models", 1, "hash"), GONE)]),
    ("model_versions_specified", [(JSON, ("judges", 0, "hash"), GONE)]),
    ("prompts_provided", [("irft/model/chat_template.jinja", (), GONE)]),
    ("prompts_provided", [(JSON, ("config", "template"), None)]),
    ("prompts_provided", [(JSON, ("judges", 0, "kind"), "model")]),
    ("hyperparameters_reported", [(META, ("config", "beta"), GONE)]),
    ("hyperparameters_reported", [(JSON, ("config", "temperature"), GONE)]),
    ("data_preprocessing_documented", [("irft/quarantine.jsonl", (), GONE)]),
    ("data_preprocessing_documented", [(JSON, ("data", "left_out"), GONE)]),
    ("limitations_section_present", [(META, ("config", "seed"), GONE)]),
    ("threats_to_validity_specific", [("irft/stages/00/start.jsonl.gz", (), GONE),
                                      (JSON, ("comparisons", 0, "smallest_difference"), None),
                                      (JSON, ("comparisons", 1, "smallest_difference"), None)]),
    ("scope_boundaries_stated", [("irft/quarantine.jsonl", (), GONE)]),
    ("raw_data_available", [("irft/stages/00/start.jsonl.gz", (), GONE)]),
    ("raw_data_available", [("ev/rows.jsonl.gz", (), GONE)]),
    ("raw_data_available", [(JSON, ("data", "rows"), 4)]),
    ("raw_data_available", [("ev/task-rows.jsonl.gz", (), GONE)]),
    ("data_collection_described", [(META, ("config", "data"), ["a.jsonl", "b.jsonl"])]),
    ("data_collection_described", [(META, ("data", "rows.jsonl"), "a hash")]),
    ("data_collection_described", [("ev/rows.jsonl.gz", (), GONE)]),
    ("data_pipeline_documented", [("irft/quarantine.jsonl", (), GONE)]),
    ("data_pipeline_documented", [(META, ("rows",), "")]),
    ("data_pipeline_documented", [(STATE, ("train", "policy"), "")]),
    ("data_pipeline_documented", [(STATE, ("score", "outputs"), {})]),
    ("train_test_overlap_discussed", [(JSON, ("leaks", 0), {"model": "irft", "searched": False, "why": "gone"})]),
    ("train_test_overlap_discussed", [(JSON, ("leaks", 0, "not_searched"), ["rows.jsonl"])]),
    ("benchmark_contamination_addressed", [(JSON, ("leaks", 1, "searched"), False),
                                           (JSON, ("leaks", 1, "why"), "gone")]),
    ("benchmark_contamination_addressed", [("ev/tasks.json", (), GONE)]),
    ("inference_cost_reported", [(JSON, ("models", 1, "sampled_tokens"), 0)]),
    ("seed_sensitivity_reported", [(COMPARISON, ("lines", 1, "rank"), None)]),
    ("number_of_runs_stated", [(COMPARISON, (), GONE), (JSON, ("models", 1, "runs"), GONE)]),
    ("best_config_selection_justified", [(JSON, ("data", "hashes", "t.jsonl"), ROWS)]),
    ("best_config_selection_justified", [(JSON, ("models", 0, "hash"), OTHER)]),
    ("best_config_selection_justified", [(CHECK, ("gate",), GONE)]),
    ("multiple_comparison_correction", [(JSON, ("comparisons", 0, "p_corrected"), None)]),
    ("compute_budget_vs_performance", [(COMPARISON, ("lines", 4, "cost", "trained_tokens"), 899)]),
    ("compute_budget_vs_performance", [(COMPARISON, (), GONE)]),
    ("feature_leakage_addressed", [("irft/shortcuts.json", (0, "shortcuts"), [])]),
    ("feature_leakage_addressed", [("irft/shortcuts.json", (), GONE)]),
    ("non_independence_addressed", [(JSON, ("leaks", 2, "counts"), GONE)]),
    ("leakage_detection_method", [(JSON, ("leaks",), [])]),
]  # fmt: skip


@pytest.mark.parametrize(("key", "damages"), DAMAGES)
def test_without_its_evidence_a_question_is_answered_no(rich: Path, key: str, damages: list[Damage]) -> None:
    for name, path, value in damages:
        if path:
            edit(rich / name, path, value)
        else:
            (rich / name).unlink()
    comparison = rich / COMPARISON
    card = rigor_card([rich / RUN], [rich / EVALUATION], comparison if comparison.exists() else None)
    answer = next(one for one in card if one.key == key)
    assert answer.answer == "no"
    assert answer.evidence


def test_every_question_is_damaged_somewhere() -> None:
    assert {key for key, _ in DAMAGES} == set(FINDERS)


def test_a_run_that_kept_next_to_nothing_answers_nothing(tmp_path: Path) -> None:
    run = write_run(tmp_path / "bare", start=None, config={"seed": None})
    (run / "quarantine.jsonl").unlink()
    (run / "stages/00/samples.jsonl.gz").unlink()
    (run / "stages/00/reference_logps.jsonl.gz").unlink()
    answers = Counter(one.answer for one in rigor_card([run]))
    assert answers == {"no": 54, "not applicable": 3}


def test_the_sceptic_can_follow_the_evidence(rich: Path) -> None:
    card = card_of(rich)

    def evidence(key: str) -> str:
        return card[key].evidence or ""

    assert evidence("ablation_study") == "comparison.json: lines: irft with stages=2 and stages=4"
    assert "best shortcut length 0.70 [0.50, 0.90]; the reward is better than its shortcuts" in evidence(
        "feature_leakage_addressed"
    )
    assert evidence("negative_results_reported") == "irft/stages/01/check.json: gate.verdict worse"
    assert "irft stages=2 1,000, sft, control of irft stages=2 1,090" in evidence("compute_budget_vs_performance")
    assert "data: rows.jsonl, sha256 dddddddddddd…" in evidence("data_collection_described")
    assert "2 held-out prompts are training prompts" in evidence("held_out_test_set")


def test_a_significant_harm_in_a_table_is_a_negative_result(rich: Path) -> None:
    edit(rich / RUN / "stages/01/check.json", ("gate", "verdict"), "better")
    row = rich / EVALUATION / "evaluation.json"
    edit(row, ("comparisons", 1, "difference"), 0.3)  # a win rate of 30%, corrected p = 0.02
    assert card_of(rich)["negative_results_reported"].answer == "yes"
    edit(row, ("comparisons", 1, "p_corrected"), 0.06)
    assert card_of(rich)["negative_results_reported"].answer == "no"


def test_a_difference_without_spread_needs_no_smallest_difference(rich: Path) -> None:
    file = rich / EVALUATION / "evaluation.json"
    for name, value in (("difference", 0.0), ("low", 0.0), ("high", 0.0), ("smallest_difference", None)):
        edit(file, ("comparisons", 0, name), value)
    assert card_of(rich)["sample_size_justified"].answer == "yes"


def test_runs_side_by_side_want_a_comparison(rich: Path, tmp_path: Path) -> None:
    second = Path(shutil.copytree(rich / RUN, tmp_path / "second"))
    for comparison, answer in ((None, "no"), (rich / COMPARISON, "yes")):
        card = {one.key: one for one in rigor_card([rich / RUN, second], [rich / EVALUATION], comparison)}
        assert card["significance_tests"].answer == answer


def test_surfaces_are_read_from_the_audit_alone(rich: Path) -> None:
    """No other file of the run is needed, and without the audit the card names what is missing."""
    (rich / RUN / "shortcuts.json").unlink()
    answer = card_of(rich)["feature_leakage_addressed"]
    assert answer.evidence == "irft/shortcuts.json is missing; a run writes it when it finishes"


def test_wording_decides_nothing(rich: Path) -> None:
    """Labels and names are for people: other ones leave every answer as it is."""
    before = {key: one.answer for key, one in card_of(rich).items()}
    file = rich / EVALUATION / "evaluation.json"
    for place in ("measures", "comparisons"):
        edit(file, (place, 0, "measure"), "how likely the examples are")
    edit(file, ("measures", 1, "measure"), "how likely the examples are")
    for number, name in enumerate(("begin", "A", "B", "C", "D")):
        edit(rich / COMPARISON, ("lines", number, "setting"), name)
    assert {key: one.answer for key, one in card_of(rich).items()} == before


def test_the_card_counts_itself_beside_the_paper(rich: Path, tmp_path: Path) -> None:
    answers = rigor_card([rich / RUN], [rich / EVALUATION], rich / COMPARISON)
    write_card(tmp_path / "card.json", answers)
    card = json.loads((tmp_path / "card.json").read_text(encoding="utf-8"))
    assert (card["answered"], card["answerable"], card["applicable"]) == (len(FINDERS), len(FINDERS), 54)
    assert {section: list(questions) for section, questions in card["checklist"].items()} == {
        section: list(questions) for section, questions in checklist()["checklist"].items()
    }
    answer = card["checklist"]["cost_and_practicality"]["inference_cost_reported"]
    assert (answer["answer"], answer["paper"]) == ("yes", "no")
    assert "90 tokens drawn, 80 scored, 1.5 GiB" in answer["evidence"]


def test_what_the_given_files_cannot_answer_is_counted_apart(rich: Path) -> None:
    """A run alone can answer 18 questions; an evaluation adds 12, runs side by side 11, of which 5 are the same."""

    def count(evaluations: list[Path], comparison: Path | None) -> RigorCount:
        return count_answers(rigor_card([rich / RUN], evaluations, comparison))

    alone = count([], None)
    assert (alone.answered, alone.answerable) == (18, 18)
    assert alone.lacking == {EVALUATION_LACKS: 12, "runs of several settings and seeds": 6, PEOPLE: 18}
    assert alone.sentence == (
        "18 of the 18 questions that these files can answer are answered with evidence; 36 need what was not given: "
        f"{PEOPLE} (18), an evaluation (12), runs of several settings and seeds (6)."
    )
    assert count([rich / EVALUATION], None).answerable == 30
    assert count([], rich / COMPARISON).answerable == 29
    everything = count([rich / EVALUATION], rich / COMPARISON)
    assert (everything.answerable, everything.lacking) == (36, {PEOPLE: 18})


def test_a_question_that_the_files_can_answer_and_do_not_is_a_no(rich: Path) -> None:
    (rich / RUN / "shortcuts.json").unlink()
    card = {one.key: one for one in rigor_card([rich / RUN])}
    assert (card["feature_leakage_addressed"].answer, card["feature_leakage_addressed"].lacks) == ("no", None)
    assert card["per_category_breakdown"].lacks == "an evaluation"
    assert card["funding_disclosed"].lacks == PEOPLE


def test_the_paper_answers_25_of_54() -> None:
    paper = Counter(one["paper"] for questions in checklist()["checklist"].values() for one in questions.values())
    assert paper == {"yes": 25, "no": 29, "not applicable": 3}


def test_every_question_has_a_finder_or_a_reason() -> None:
    asked = {key: one["paper"] for questions in checklist()["checklist"].values() for key, one in questions.items()}
    applicable = {key for key, paper in asked.items() if paper != "not applicable"}
    assert FINDERS.keys() | NEVER == applicable
    assert not FINDERS.keys() & NEVER


def test_keys_and_the_papers_column_are_the_checklists() -> None:
    if not REAL.is_file():
        pytest.skip(f"{REAL} is not here; it is not part of the project")
    wanted = json.loads(REAL.read_text(encoding="utf-8"))["checklist"]
    papers: Callable[[Any], Any] = lambda told: {  # noqa: E731
        section: {key: one["paper"] for key, one in questions.items()} for section, questions in told.items()
    }
    assert papers(checklist()["checklist"]) == papers(wanted)
    assert all(
        one["question"] != wanted[section][key]["question"]
        for section, questions in checklist()["checklist"].items()
        for key, one in questions.items()
    )


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DemotuneError, match="holds no run"):
        rigor_card([tmp_path])
