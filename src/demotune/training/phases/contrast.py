"""CONTRAST: models besides the stage's policy answer its prompts, for a reward that learns from their samples too."""

from collections.abc import Sequence
from functools import partial

from demotune.common.json_records import write_records
from demotune.common.memory import give_back_memory
from demotune.common.progress import track
from demotune.common.sequences import Mapped
from demotune.config.methods import AnyConfig
from demotune.models.policy import Policy, merged
from demotune.records import Response
from demotune.runs.file_names import CONTRAST
from demotune.runs.rows import ContrastRow
from demotune.training.contrast import Source, rows_to_draw, sources_of
from demotune.training.drawing import draw_with
from demotune.training.stage import Outcome, Stage, tokens_of
from demotune.training.work import PhaseWork
from demotune.training.work_plan import StagePlan


def needed(config: AnyConfig) -> bool:
    """Whether the reward learns from samples of another model than the policy."""
    return bool(sources_of(config))


def run(stage: Stage) -> Outcome:
    """One response of each model to each prompt that it has not answered yet."""
    setup, sources = stage.setup, sources_of(stage.setup.config)
    rows = {source: rows_to_draw(setup, stage.number, source) for source in sources}
    drawn: dict[Source, Sequence[Response]] = {}
    tokens = 0
    for source in sources:
        prompts = Mapped(lambda row: row.prompt_ids, rows[source])
        with track(f"{stage.title}: samples of the {source} model", len(prompts), "responses") as tracker:
            drawn[source] = draw_with(
                stage, partial(_load, stage, source), prompts, purpose=f"contrast-{source}", tracker=tracker
            )
        give_back_memory()
        tokens += tokens_of(zip(prompts, drawn[source], strict=True))
    heldout = {row.key for row in setup.heldout}
    found = (
        ContrastRow(
            key=row.key,
            heldout=row.key in heldout,
            source=source,
            sample=setup.renderer.decode(response.ids),
            sample_ids=response.ids,
            finished=response.finished,
        )
        for source in sources
        for row, response in zip(rows[source], drawn[source], strict=True)
    )
    return Outcome(
        outputs={CONTRAST: lambda file: write_records(file, found)},
        forward_tokens=tokens,
        facts={"samples": {source: len(drawn.get(source, ())) for source in ("start", "base")}},
    )


def work(plan: StagePlan) -> PhaseWork:
    """Responses of each model to the prompts that it has not answered in an earlier stage."""
    each = [rows_to_draw(plan.setup, plan.number, source) for source in sources_of(plan.setup.config)]
    draws = [plan.draws(plan.sizes_of(rows)) for rows in each if rows]
    return PhaseWork(draws=tuple(draw for some in draws for draw in some), loads=len(draws))


def _load(stage: Stage, source: Source) -> Policy:
    setup = stage.setup
    stage.free_policy()  # one model in memory
    folder = setup.start_model if source == "start" else setup.base_model
    assert folder is not None, "prepare_run finds the base model"
    return merged(setup.load_policy_unmerged(folder))
