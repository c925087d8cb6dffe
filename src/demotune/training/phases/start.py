"""START: held-out rows under the start model, which the first stage is compared with."""

from demotune.common.json_records import write_records
from demotune.runs.file_names import START
from demotune.training.heldout_rows import heldout_tokens, start_rows
from demotune.training.stage import Outcome, Stage
from demotune.training.work import PhaseWork
from demotune.training.work_plan import StagePlan


def run(stage: Stage) -> Outcome:
    """Score held-out demonstrations by the start model; draw its answers unless the sample phase has drawn them."""
    rows = start_rows(stage) if stage.setup.heldout else []
    return Outcome(
        outputs={START: lambda file: write_records(file, rows)},
        forward_tokens=heldout_tokens(stage, [] if stage.done("sample") else rows),
    )


def work(plan: StagePlan) -> PhaseWork:
    """What `run` does; a model that has drawn the stage's samples is loaded already."""
    draws = () if plan.has("sample") else plan.draws(plan.heldout)
    return PhaseWork(draws=draws, scored=plan.scored_demos(plan.heldout), loads=len(draws))
