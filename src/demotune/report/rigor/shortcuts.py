"""The rigor question about surfaces: how well length, end token, first and last tokens predict the demonstration."""

import json

from demotune.common.statistics import Interval
from demotune.report.collect import Run
from demotune.report.rigor.evidence import Evidence, Finding, every, no, yes

SHORTCUTS = "shortcuts.json"


def surfaces(evidence: Evidence) -> Finding:
    """The shortcut audit of each run that drew samples."""
    drew = [run for run in evidence.runs if any(stage.samples for stage in run.stages)]
    return every(map(_audited, drew), "no run with samples whose surface could be compared with demonstrations")


def _audited(run: Run) -> Finding:
    """The best shortcut of each stage, and the learned reward against it where the stage kept rewards."""
    file = run.folder / SHORTCUTS
    if not file.exists():
        return no(f"{run.name}/{SHORTCUTS} is missing; a run writes it when it finishes")
    texts = []
    for stage in json.loads(file.read_text(encoding="utf-8")):
        if stage["shortcuts"]:
            best = max(stage["shortcuts"], key=lambda shortcut: shortcut["accuracy"]["value"])
            of_reward = f"; the reward is {stage['reward']['verdict']}" if stage["reward"] else ""
            accuracy = Interval(**best["accuracy"]).text()
            texts.append(f"{run.name} stage {stage['stage']}: best shortcut {best['name']} {accuracy}{of_reward}")
    return yes("; ".join(texts)) if texts else no(f"{run.name}: too few prompts to audit")
