"""Whether a stage's reward is worth policy steps: on held-out pairs it must beat chance and the best shortcut."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from demotune.common.json_records import from_json, iter_records
from demotune.common.sequences import Joined
from demotune.common.statistics import FEWEST, Interval, mean_interval
from demotune.common.statistics.intervals import Ratio
from demotune.records import Pair
from demotune.rewards.shortcuts import ShortcutAudit, audit_shortcuts, not_too_many
from demotune.runs.file_names import REWARDS
from demotune.runs.heldout import PairCheck, win
from demotune.runs.rows import RewardRow
from demotune.training.pairs import rewarded_pairs
from demotune.training.stage import Stage, with_reward


@dataclass(frozen=True, slots=True)
class Lead:
    """How much more often a reward is right than the best shortcut, on the same held-out pairs."""

    prompts: int
    """All shares are means over prompts, of each prompt's mean over its pairs."""
    accuracy: float
    shortcut: str
    shortcut_accuracy: float
    lead: Interval
    error: float
    """Standard error of the lead; nan under 5 prompts."""

    @property
    def clear(self) -> bool:
        """More than one standard error above 0: a 95% interval would keep most rewards of small runs out."""
        return self.lead.value > max(self.error, 0.0)


def lead_over_shortcuts(
    audit: ShortcutAudit, pairs: Sequence[Pair], rewards: Mapping[int, tuple[float, float]]
) -> Lead:
    """The reward against the audit's best shortcut.

    `pairs` are those of the audit; `rewards` gives the places of the held-out ones, at least one, and what both sides
    earn.
    """
    shortcut, right = audit.best
    found: defaultdict[tuple[int, ...], list[tuple[float, float]]] = defaultdict(list)
    for place, both in rewards.items():
        found[pairs[place].prompt_ids].append((win(*both), right[place]))
    by_prompt = np.array([np.mean(of_prompt, axis=0) for of_prompt in found.values()])
    accuracy, shortcut_accuracy = by_prompt.mean(axis=0).tolist()
    leads = (by_prompt[:, 0] - by_prompt[:, 1]).tolist()
    return Lead(
        prompts=len(found),
        accuracy=accuracy,
        shortcut=shortcut.name,
        shortcut_accuracy=shortcut_accuracy,
        lead=mean_interval(leads),
        error=Ratio.of(leads, [1.0] * len(leads)).error,
    )


def why_closed(check: PairCheck, lead: Lead | None) -> str | None:
    """Why policy steps should not follow a reward; None where they may. No lead: too few prompts for an audit."""
    found = f"the reward is right on {check.accuracy.text()} of {check.pairs} held-out pairs"
    if check.accuracy.low <= 0.5:
        return f"{found}, which chance reaches too"
    if lead is None or lead.clear:
        return None
    compared = (
        f"{found}; on {lead.prompts} held-out prompts with samples of the policy it is right on {lead.accuracy:.2f}, "
        f"the best shortcut ({lead.shortcut}) on {lead.shortcut_accuracy:.2f}"
    )
    if not lead.lead.known:
        return f"{compared}, and a comparison needs {FEWEST} prompts"
    return f"{compared}, a lead of {lead.lead.text()}, which is not clear of 0"


def closed_for(stage: Stage) -> str | None:
    """`why_closed` of a stage whose reward phase is done and judged its reward on held-out pairs.

    A reward is held against shortcuts on demonstrations and samples of the policy, if it learned from these.
    """
    check, config = from_json(PairCheck, stage.state["reward"]["check"]), with_reward(stage.setup)
    if config.reward_positives != "demonstrations" or "policy" not in config.reward_negatives:
        return why_closed(check, None)
    pairs, rewards = _pairs_of_policy(stage)
    audit = audit_shortcuts(pairs)
    if audit is not None and not rewards:
        return "no held-out sample of the policy is one that the reward may see: it cannot be compared with shortcuts"
    return why_closed(check, None if audit is None else lead_over_shortcuts(audit, pairs, rewards))


def _pairs_of_policy(stage: Stage) -> tuple[list[Pair], dict[int, tuple[float, float]]]:
    """The stage's pairs as its reward sees them, and what both sides of the held-out ones earn, by their places."""
    rewarded = zip(Joined(*rewarded_pairs(stage)), iter_records(RewardRow, stage.folder / REWARDS), strict=True)
    usable = ((pair, row) for pair, row in rewarded if row.usable)
    seen = not_too_many(usable, lambda both: (both[1].heldout, both[1].key))
    heldout = {place: (row.demo_reward, row.sample_reward) for place, (_, row) in enumerate(seen) if row.heldout}
    return [pair for pair, _ in seen], heldout
