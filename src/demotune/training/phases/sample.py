"""SAMPLE: the start policy of the stage answers the prompts of its slice, and the held-out prompts.

Held-out prompts only in the first stage: the answers of every later start policy were drawn when it was checked.
"""

from statistics import fmean

from demotune.common.json_records import write_records
from demotune.common.progress import track
from demotune.runs.heldout_files import rows_before
from demotune.runs.names import SAMPLES
from demotune.runs.rows import SampleRow
from demotune.training.drawing import draw_with
from demotune.training.stage import Outcome, Stage, stage_slice, tokens_of
from demotune.training.work import PhaseWork
from demotune.training.work_plan import StagePlan


def run(stage: Stage) -> Outcome:
    """One response of pi_t to each prompt of the slice, and to each held-out prompt."""
    own, heldout = stage_slice(stage.setup, stage.number), stage.setup.heldout
    rows = [*own, *heldout]
    to_draw = [row.prompt_ids for row in (own if stage.number else rows)]
    with track(f"stage {stage.number}: sample", len(to_draw), "responses") as tracker:
        drawn = draw_with(stage, lambda: stage.start_policy, to_draw, purpose="sample", tracker=tracker)
    kept = rows_before(stage.setup.folder, stage.number) if stage.number and heldout else []
    samples = [*drawn, *(row.response for row in kept)]
    decode = stage.setup.renderer.decode
    records = (
        SampleRow(
            key=row.key,
            heldout=number >= len(own),
            finished=response.finished,
            prompt=decode(row.prompt_ids),
            demonstration=decode(row.demo.ids),
            sample=decode(response.ids),
            prompt_ids=row.prompt_ids,
            demo_ids=row.demo.ids,
            demo_finished=row.demo.finished,
            sample_ids=response.ids,
        )
        for number, (row, response) in enumerate(zip(rows, samples, strict=True))
    )
    return Outcome(
        outputs={SAMPLES: lambda file: write_records(file, records)},
        forward_tokens=tokens_of(zip(to_draw, drawn, strict=True)),
        facts={
            "seed": stage.seed("sample"),
            "samples": len(samples),
            "completions/mean_length": fmean(len(response.ids) for response in samples),
            "completions/finished_share": fmean(response.finished for response in samples),
        },
    )


def work(plan: StagePlan) -> PhaseWork:
    """Responses to the stage's own prompts and, in the first stage, to held-out ones."""
    return PhaseWork(draws=plan.draws([*plan.own, *([] if plan.number else plan.heldout)]), loads=1)
