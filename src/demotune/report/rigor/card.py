"""The rigor card: questions that a report of results should answer, answered from the files of the runs alone.

A question is answered yes only where these files hold the evidence; the card says where. What no file of a run can
hold, who paid for it for example, is answered no. The paper's answers stand beside ours.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from demotune.common.files import write_json
from demotune.report.public_names import without_paths
from demotune.report.rigor import leaks, page, records, results, shortcuts
from demotune.report.rigor.evidence import Evidence, Finding, read_evidence

Answer = Literal["yes", "no", "not applicable"]
NOT_APPLICABLE: Answer = "not applicable"
NOT_KEPT = "to be said by the authors; no file of a run holds it"

FINDERS: Mapping[str, Callable[[Evidence], Finding]] = {
    "environment_specified": records.environment,
    "reproduction_instructions": records.commands,
    "confidence_intervals_or_error_bars": results.intervals,
    "significance_tests": results.tests,
    "effect_sizes_reported": results.effect_sizes,
    "sample_size_justified": results.smallest,
    "variance_reported": results.scatter,
    "baselines_included": results.baselines,
    "ablation_study": results.ablations,
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
    "seed_sensitivity_reported": results.ranking,
    "number_of_runs_stated": results.run_counts,
    "best_config_selection_justified": leaks.picked_on_other_rows,
    "multiple_comparison_correction": results.corrected,
    "compute_budget_vs_performance": results.equal_compute,
    "feature_leakage_addressed": shortcuts.surfaces,
    "non_independence_addressed": leaks.near_duplicates,
    "leakage_detection_method": leaks.search_method,
}
"""Question -> who looks for its evidence."""

NEVER: Mapping[str, str] = {
    "code_released": NOT_KEPT,
    "data_released": "files name their data by hash; whether others can get it is not known",
    "baselines_contemporary": "the newest baseline that demotune trains, SPIN, is of January 2024 (arXiv 2401.01335)",
    "human_evaluation": "nobody judged outputs",
    "failure_cases_discussed": "samples are kept, but nobody sorted bad ones into kinds",
    "abstract_claims_supported": NOT_KEPT,
    "causal_claims_justified": "which differences are claimed as causes is for the authors to say",
    "generalization_bounded": "the languages of the data are not recorded",
    "funding_disclosed": NOT_KEPT,
    "affiliations_disclosed": NOT_KEPT,
    "funder_independent_of_outcome": NOT_KEPT,
    "financial_interests_declared": NOT_KEPT,
    "training_cutoff_stated": "the start model's files do not say when its training data ends",
    "compute_budget_stated": "runs that failed and were deleted leave nothing to count",
    "hyperparameter_search_budget": "settings that were tried and left out leave nothing to count",
    "self_comparison_bias_addressed": NOT_KEPT,
    "benchmark_construct_validity": NOT_KEPT,
    "temporal_leakage_addressed": "what the start model was pretrained on is not known",
}
"""Question -> why no file of a run answers it."""


@dataclass(frozen=True, slots=True)
class RigorAnswer:
    """A question of the card. `evidence` points to it; of a no it says what is missing."""

    section: str
    key: str
    question: str
    answer: Answer
    evidence: str | None
    paper: Answer


def rigor_card(
    runs: Sequence[Path], evaluations: Sequence[Path] = (), comparison: Path | None = None
) -> list[RigorAnswer]:
    """Answer every question from the given folders and the comparison.json, in the checklist's order.

    Raises DemotuneError for a folder that holds no run or no evaluation, and for a broken file.
    """
    evidence = read_evidence(runs, evaluations, comparison)
    return [
        _answer(section, key, asked["question"], asked["paper"], evidence)
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
            "paper": one.paper,
        }
    applicable = [one for one in answers if one.answer != NOT_APPLICABLE]
    card = {
        "about": checklist()["about"],
        "source": checklist()["source"],
        "answered": sum(one.answer == "yes" for one in applicable),
        "applicable": len(applicable),
        "checklist": sections,
    }
    write_json(file, card)


@cache
def checklist() -> dict[str, Any]:
    """The questions and the paper's answers, as shipped."""
    text = (resources.files("demotune.report.rigor") / "rigor.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def _answer(section: str, key: str, question: str, paper: Answer, evidence: Evidence) -> RigorAnswer:
    if paper == NOT_APPLICABLE:  # agents and participants: neither here nor there
        return RigorAnswer(section, key, question, NOT_APPLICABLE, None, paper)
    if key in NEVER:
        return RigorAnswer(section, key, question, "no", NEVER[key], paper)
    finding = FINDERS[key](evidence)
    answer: Answer = "yes" if finding.found else "no"
    return RigorAnswer(section, key, question, answer, without_paths(finding.text), paper)
