"""Whether a stage's reward is worth policy steps: on held-out pairs it must beat chance and the best shortcut."""

from collections import defaultdict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from statistics import fmean

from demotune.common.json_records import from_json
from demotune.common.statistics import Interval, mean_interval
from demotune.common.statistics.intervals import Ratio
from demotune.rewards.shortcuts import ShortcutAudit, audit_stage, heldout_rewards
from demotune.runs.heldout import PairCheck, count_wins
from demotune.runs.stage_reader import RunStage
from demotune.training.stage import Stage


@dataclass(frozen=True, slots=True)
class Lead:
    """How much more often a reward is right than the best shortcut, on the same held-out pairs."""

    shortcut: str
    shortcut_accuracy: float
    lead: Interval
    """Mean over prompts of (reward right - shortcut right), each a prompt's mean over its pairs."""
    error: float
    """Standard error of the lead; nan under 5 prompts."""

    @property
    def clear(self) -> bool:
        """More than one standard error above 0: a 95% interval would keep most rewards of small runs out."""
        return self.lead.value > max(self.error, 0.0)


def lead_over_shortcuts(
    audit: ShortcutAudit, rewards: Mapping[str, tuple[float, float]], prompts: Mapping[str, Hashable]
) -> Lead:
    """The reward against the audit's best shortcut on held-out pairs; `prompts` gives the prompt of each pair's key."""
    shortcut, right_by_pair = audit.best
    differences: defaultdict[Hashable, list[float]] = defaultdict(list)
    judged = [(key, right) for key, right in zip(audit.keys, right_by_pair, strict=True) if key in rewards]
    for key, right in judged:
        differences[prompts[key]].append(count_wins([rewards[key]]) - right)
    by_prompt = [fmean(found) for found in differences.values()]
    return Lead(
        shortcut=shortcut.name,
        shortcut_accuracy=fmean(right for _, right in judged),
        lead=mean_interval(by_prompt),
        error=Ratio.of(by_prompt, [1.0] * len(by_prompt)).error,
    )


def why_closed(check: PairCheck, lead: Lead | None) -> str | None:
    """Why policy steps should not follow a reward; None where they may. No lead: too few prompts for an audit."""
    found = f"the reward is right on {check.accuracy.text()} of {check.pairs} held-out pairs"
    if check.accuracy.low <= 0.5:
        return f"{found}, which chance reaches too"
    if lead is not None and not lead.clear:
        return (
            f"{found}, its best shortcut ({lead.shortcut}) on {lead.shortcut_accuracy:.2f}: a lead of "
            f"{lead.lead.text()}, which is not clear of 0"
        )
    return None


def closed_for(stage: Stage) -> str | None:
    """`why_closed` of a stage whose reward phase is done and judged its reward on held-out pairs."""
    kept = RunStage(stage.setup.folder, stage.number)
    audit = audit_stage(kept)
    prompts = {row.key: row.prompt_ids for row in kept.sample_rows}
    lead = None if audit is None else lead_over_shortcuts(audit, heldout_rewards(kept), prompts)
    return why_closed(from_json(PairCheck, stage.state["reward"]["check"]), lead)
