"""The rigor card: questions that a report of results should answer, answered from the files of the runs alone.

A question is answered yes only where these files hold the evidence; the card says where. What the given files cannot
answer, because it takes an evaluation, several runs, or people, is answered no too, but says what it lacks and is
counted apart. The paper's answers are given beside ours.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from demotune.common.files import shipped_text, write_json
from demotune.report.public_names import without_paths
from demotune.report.rigor import comparisons, leaks, page, records, results, surfaces
from demotune.report.rigor.evidence import Evidence, Finding, read_evidence

Answer = Literal["yes", "no", "not applicable"]
NOT_APPLICABLE: Answer = "not applicable"
EVALUATION, COMPARISON = "an evaluation", "runs of several settings and seeds"
PEOPLE = "people, or knowledge that no file holds"
"""What a question can lack; the first two as rigor.json names what it needs."""

FINDERS: Mapping[str, Callable[[Evidence], Finding]] = {
    "environment_specified": records.environment,
    "reproduction_instructions": records.commands,
    "confidence_intervals_or_error_bars": results.intervals,
    "significance_tests": results.tests,
    "effect_sizes_reported": results.effect_sizes,
    "sample_size_justified": results.smallest,
    "variance_reported": comparisons.scatter,
    "baselines_included": comparisons.baselines,
    "ablation_study": comparisons.ablations,
    "multiple_metrics": results.metrics,
    "held_out_test_set": leaks.unseen_rows,
    "per_category_breakdown": results.by_category,
    "negative_results_reported": results.harm,
    "alternative_explanations_discussed": results.explained_otherwise,
    "proxy_outcome_distinction": page.proxy,
    "model_versions_specified": records.models_by_hash,
    "prompts_provided": records.prompts,
    "hyperparameters_reported": records.hyperparameters,
    "data_preprocessing_documented": records.filters,
    "limitations_section_present": page.limits_section,
    "threats_to_validity_specific": page.threats,
    "scope_boundaries_stated": page.scope,
    "raw_data_available": records.raw_results,
    "data_collection_described": records.row_sources,
    "data_pipeline_documented": records.pipeline,
    "train_test_overlap_discussed": leaks.overlap,
    "benchmark_contamination_addressed": leaks.contamination,
    "inference_cost_reported": results.inference_cost,
    "seed_sensitivity_reported": comparisons.ranking,
    "number_of_runs_stated": results.run_counts,
    "best_config_selection_justified": leaks.picked_on_other_rows,
    "multiple_comparison_correction": results.corrected,
    "compute_budget_vs_performance": comparisons.equal_compute,
    "feature_leakage_addressed": surfaces.surfaces,
    "non_independence_addressed": leaks.near_duplicates,
    "leakage_detection_method": leaks.search_method,
}
"""Question -> who looks for its evidence; of the other questions rigor.json says why no file of a run answers them."""


@dataclass(frozen=True, slots=True)
class RigorAnswer:
    """A question of the card. `evidence` points to it; of a no it says what is missing."""

    section: str
    key: str
    question: str
    answer: Answer
    evidence: str | None
    paper: Answer
    lacks: str | None = None
    """What it takes to answer this and was not given; None where the given files can."""


@dataclass(frozen=True, slots=True)
class RigorCount:
    """How many questions are answered, of how many that the given files can answer; the others by what they lack."""

    answered: int
    answerable: int
    lacking: Mapping[str, int]

    @property
    def sentence(self) -> str:
        """Answers 12 of the 18 questions that it can; 36 more need an evaluation (12), people (18), ..."""
        text = (
            f"{self.answered} of the {self.answerable} questions that these files can answer are answered with evidence"
        )
        if not self.lacking:
            return f"{text}."
        others = ", ".join(f"{what} ({count})" for what, count in self.lacking.items())
        return f"{text}; {sum(self.lacking.values())} need what was not given: {others}."


def rigor_card(
    runs: Sequence[Path], evaluations: Sequence[Path] = (), comparison: Path | None = None
) -> list[RigorAnswer]:
    """Answer every question from the given folders and the comparison.json, in the checklist's order.

    Raises DemotuneError for a folder that holds no run or no evaluation, and for a broken file.
    """
    evidence = read_evidence(runs, evaluations, comparison)
    given = {EVALUATION: bool(evaluations), COMPARISON: comparison is not None}
    return [
        _answer(section, key, asked, evidence, given)
        for section, questions in checklist()["checklist"].items()
        for key, asked in questions.items()
    ]


def write_card(file: Path, answers: Sequence[RigorAnswer]) -> None:
    """The card as JSON, laid out like the checklist, with its count."""
    sections: dict[str, dict[str, dict[str, str | None]]] = {}
    for one in answers:
        sections.setdefault(one.section, {})[one.key] = {
            "question": one.question,
            "answer": one.answer,
            "evidence": one.evidence,
            "lacks": one.lacks,
            "paper": one.paper,
        }
    answered, applicable = count_yes(one.answer for one in answers)
    card = {
        "about": checklist()["about"],
        "source": checklist()["source"],
        "answered": answered,
        "answerable": count_answers(answers).answerable,
        "applicable": applicable,
        "checklist": sections,
    }
    write_json(file, card)


def count_yes(answers: Iterable[Answer]) -> tuple[int, int]:
    """How many are yes, of how many that apply."""
    applicable = [one for one in answers if one != NOT_APPLICABLE]
    return applicable.count("yes"), len(applicable)


def count_answers(answers: Sequence[RigorAnswer]) -> RigorCount:
    """Count them, those that the given files cannot answer apart."""
    own = [one for one in answers if one.lacks is None and one.answer != NOT_APPLICABLE]
    lacking = Counter(one.lacks for one in answers if one.lacks is not None)
    return RigorCount(sum(one.answer == "yes" for one in own), len(own), lacking)


@cache
def checklist() -> dict[str, Any]:
    """The questions and the paper's answers, as shipped."""
    found: dict[str, Any] = json.loads(shipped_text("demotune.report.rigor", "rigor.json"))
    return found


def _answer(
    section: str, key: str, asked: Mapping[str, Any], evidence: Evidence, given: Mapping[str, bool]
) -> RigorAnswer:
    question, paper = asked["question"], asked["paper"]
    if paper == NOT_APPLICABLE:  # questions about agents and participants: there are none here either
        return RigorAnswer(section, key, question, NOT_APPLICABLE, None, paper)
    if "unanswerable" in asked:
        return RigorAnswer(section, key, question, "no", asked["unanswerable"], paper, PEOPLE)
    finding, needs = FINDERS[key](evidence), asked.get("needs", ())
    lacks = None if finding.found or not needs or any(given[what] for what in needs) else needs[0]
    answer: Answer = "yes" if finding.found else "no"
    return RigorAnswer(section, key, question, answer, without_paths(finding.text), paper, lacks)
