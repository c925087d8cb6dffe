"""The rigor question about surfaces: how well length, end token, first and last tokens predict the demonstration."""

from demotune.report.rigor.evidence import Evidence, Finding, every, no, yes
from demotune.runs.file_names import SHORTCUTS, stage_title
from demotune.runs.run import Run
from demotune.runs.shortcuts import read_shortcuts


def surfaces(evidence: Evidence) -> Finding:
    """The shortcut audit of each run that drew samples."""
    drew = [run for run in evidence.runs if any(stage.drew for stage in run.stages)]
    return every(map(_audited, drew), "no run with samples whose surface could be compared with demonstrations")


def _audited(run: Run) -> Finding:
    """The best shortcut of each stage, and the learned reward against it where the stage kept rewards."""
    file = run.folder / SHORTCUTS
    if not file.exists():
        return no(f"{run.name}/{SHORTCUTS} is missing; a run writes it when it finishes")
    texts = []
    for stage in read_shortcuts(file):
        if stage.shortcuts:
            best = max(stage.shortcuts, key=lambda shortcut: shortcut.accuracy.value)
            of_reward = f"; the reward is {stage.reward.verdict}" if stage.reward else ""
            text = f"{run.name} {stage_title(stage.stage)}: best shortcut {best.name} {best.accuracy.text()}{of_reward}"
            texts.append(text)
    return yes("; ".join(texts)) if texts else no(f"{run.name}: too few prompts to audit")
