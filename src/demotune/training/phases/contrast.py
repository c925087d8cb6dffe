"""CONTRAST: models besides the stage's policy answer its prompts, for a reward that learns from their samples too."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial

from demotune.common.json_records import write_records
from demotune.common.memory import give_back_memory
from demotune.common.progress import say
from demotune.common.sequences import Mapped
from demotune.config.methods import AnyConfig
from demotune.models.policy import Policy, merged
from demotune.records import RenderedDemonstration, Response
from demotune.runs.file_names import CONTRAST
from demotune.runs.rows import ContrastRow
from demotune.training.by_key import ByKey
from demotune.training.contrast import Source, preferred_sample, rows_to_draw, sources_of
from demotune.training.pairs import repeated, sampled_pairs
from demotune.training.row_samples import RowSamples, draw_samples
from demotune.training.stage import Outcome, Stage, with_reward
from demotune.training.work import PhaseWork
from demotune.training.work_plan import StagePlan


def needed(config: AnyConfig) -> bool:
    """Whether the reward learns from samples of another model than the policy."""
    return bool(sources_of(config))


def run(stage: Stage) -> Outcome:
    """M responses of each model to each prompt that it has not answered yet.

    One that equals what the reward is to prefer to it is kept, makes no pair, and is drawn again for a bounded number
    of rounds.
    """
    setup, sources = stage.setup, sources_of(stage.setup.config)
    drawn: dict[Source, RowSamples] = {}
    tokens = 0
    for source in sources:
        rows = rows_to_draw(setup, stage.number, source)
        drawn[source] = RowSamples(rows, _preferred(stage, source, rows, drawn), setup.answer_marker)
        tokens += _draw(stage, source, drawn[source])
    heldout = {row.key for row in setup.heldout}
    found = (
        ContrastRow(
            key=samples.rows[place].key,
            heldout=samples.rows[place].key in heldout,
            source=source,
            sample=setup.renderer.decode(response.ids),
            sample_ids=response.ids,
            finished=response.finished,
        )
        for source, samples in drawn.items()
        for place, response in samples.by_row()
    )
    return Outcome(
        outputs={CONTRAST: lambda file: write_records(file, found)},
        forward_tokens=tokens,
        facts={
            "samples": {one: len(drawn[one].equal) if one in drawn else 0 for one in ("start", "base")},
            "equal_samples": {one: int(drawn[one].equal.sum()) if one in drawn else 0 for one in ("start", "base")},
        },
    )


def _preferred(
    stage: Stage, source: Source, rows: Sequence[RenderedDemonstration], drawn: Mapping[Source, RowSamples]
) -> Sequence[Response | None]:
    """What the reward is to prefer to each response of this model; None where it prefers this response, or nothing."""
    if with_reward(stage.setup).reward_positives == "demonstrations":
        return Mapped(lambda place: rows[place].demo, range(len(rows)))
    if source == "start":
        return [None] * len(rows)
    of_start = ByKey(_of_start(stage, drawn))
    return Mapped(lambda place: preferred_sample(of_start[rows[place].key], stage.setup), range(len(rows)))


def _of_start(stage: Stage, drawn: Mapping[Source, RowSamples]) -> Iterator[tuple[str, Response]]:
    """(key of the row, response) of the start model to the stage's rows: in the first stage it is the policy."""
    if stage.number:
        yield from ((drawn["start"].rows[place].key, response) for place, response in drawn["start"].by_row())
    else:
        for heldout in (False, True):
            yield from ((pair.key, pair.sample) for pair in sampled_pairs(stage.setup, 0, heldout))


def _draw(stage: Stage, source: Source, samples: RowSamples) -> int:
    """Fill `samples`; returns how many tokens that took."""
    policy = cache(partial(_load, stage, source))  # for all rounds
    title = f"{stage.title}: samples of the {source} model"
    tokens = draw_samples(stage, samples, policy, purpose=f"contrast-{source}", title=title)
    del policy
    give_back_memory()
    if equal := int(samples.equal.sum()):
        without = int((samples.differing() == 0).sum())
        say(
            f"{stage.title}: {equal} samples of the {source} model equal the response that the reward is to prefer; "
            f"after they were drawn again {without} rows have no other one"
        )
    return tokens


def work(plan: StagePlan) -> PhaseWork:
    """Responses of each model to the prompts that it has not answered in an earlier stage."""
    each = [rows_to_draw(plan.setup, plan.number, source) for source in sources_of(plan.setup.config)]
    draws = [plan.draws(repeated(plan, plan.sizes_of(rows))) for rows in each if rows]
    return PhaseWork(draws=tuple(draw for some in draws for draw in some), loads=len(draws))


def _load(stage: Stage, source: Source) -> Policy:
    setup = stage.setup
    stage.free_policy()  # one model in memory
    folder = setup.start_model if source == "start" else setup.base_model
    assert folder is not None, "prepare_run finds the base model"
    return merged(setup.load_policy_unmerged(folder))
