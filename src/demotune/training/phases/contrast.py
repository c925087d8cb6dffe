"""CONTRAST: models besides the stage's policy answer its prompts, for a reward that learns from their samples too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial

from demotune.common.json_records import write_records
from demotune.common.memory import give_back_memory
from demotune.common.progress import say, track
from demotune.common.sequences import Mapped
from demotune.config.methods import AnyConfig
from demotune.models.policy import Policy, merged
from demotune.records import Pair, RenderedDemonstration, Response
from demotune.rewards.answer_only import equal_answers
from demotune.runs.file_names import CONTRAST
from demotune.runs.rows import ContrastRow
from demotune.training.by_key import ByKey
from demotune.training.contrast import Source, rows_to_draw, sources_of
from demotune.training.drawing import draw_with, drawing_rounds
from demotune.training.pairs import sampled_pairs
from demotune.training.setup import Setup
from demotune.training.stage import Outcome, Stage, tokens_of, with_reward
from demotune.training.work import PhaseWork
from demotune.training.work_plan import StagePlan


def needed(config: AnyConfig) -> bool:
    """Whether the reward learns from samples of another model than the policy."""
    return bool(sources_of(config))


def run(stage: Stage) -> Outcome:
    """One response of each model to each prompt that it has not answered yet.

    One that equals what the reward is to prefer to it is drawn again for a bounded number of rounds.
    """
    setup, sources = stage.setup, sources_of(stage.setup.config)
    drawn: dict[Source, _Drawn] = {}
    for source in sources:
        drawn[source] = _draw(stage, source, _preferred(stage, source, drawn))
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
        for row, response in zip(rows_to_draw(setup, stage.number, source), drawn[source].kept, strict=True)
    )
    return Outcome(
        outputs={CONTRAST: lambda file: write_records(file, found)},
        forward_tokens=sum(one.tokens for one in drawn.values()),
        facts={
            "samples": {source: len(drawn[source].kept) if source in drawn else 0 for source in ("start", "base")},
            "equal_samples": {source: drawn[source].equal if source in drawn else 0 for source in ("start", "base")},
        },
    )


@dataclass(frozen=True, slots=True)
class _Drawn:
    kept: Sequence[Response]
    """One for each row: the first that differs from what is preferred to it, else the last."""
    equal: int
    """How many of all did not differ."""
    tokens: int


def _preferred(stage: Stage, source: Source, drawn: Mapping[Source, _Drawn]) -> Sequence[Response | None]:
    """What the reward is to prefer to each response of this model; None where it prefers this response, or nothing."""
    rows = rows_to_draw(stage.setup, stage.number, source)
    if with_reward(stage.setup).reward_positives == "demonstrations":
        return Mapped(lambda place: rows[place].demo, range(len(rows)))
    if source == "start":
        return [None] * len(rows)
    if stage.number:
        return drawn["start"].kept  # to the same prompts
    first = ByKey((pair.key, pair.sample) for side in (False, True) for pair in sampled_pairs(stage.setup, 0, side))
    return Mapped(lambda place: next(iter(first[rows[place].key]), None), range(len(rows)))


def _draw(stage: Stage, source: Source, preferred: Sequence[Response | None]) -> _Drawn:
    setup, rows = stage.setup, rows_to_draw(stage.setup, stage.number, source)
    policy = cache(partial(_load, stage, source))  # for all rounds
    first: Sequence[Response] = ()
    later: dict[int, Response] = {}
    equal, tokens = 0, 0
    wanted: Sequence[int] = range(len(rows))
    for number, again in drawing_rounds(setup):
        prompts = Mapped(lambda place: rows[place].prompt_ids, wanted)
        with track(f"{stage.title}: samples of the {source} model{again}", len(prompts), "responses") as tracker:
            drawn = draw_with(
                stage,
                policy,
                prompts,
                purpose=f"contrast-{source}",
                tracker=tracker,
                first_stream=number * len(rows),
            )
        tokens += tokens_of(zip(prompts, drawn, strict=True))
        if number:
            later.update(zip(wanted, drawn, strict=True))
        else:
            first = drawn
        both = zip(wanted, drawn, strict=True)
        wanted = [place for place, response in both if _equals(setup, rows[place], preferred[place], response)]
        equal += len(wanted)
        if not wanted:
            break
    del policy
    give_back_memory()
    if equal:
        say(
            f"{stage.title}: {equal} samples of the {source} model equal the response that the reward is to prefer; "
            f"after they were drawn again {len(wanted)} rows have no other one"
        )
    return _Drawn(Mapped(lambda place: later.get(place) or first[place], range(len(first))), equal, tokens)


def _equals(setup: Setup, row: RenderedDemonstration, preferred: Response | None, response: Response) -> bool:
    """Whether the two make no pair."""
    if preferred is None:
        return False
    return equal_answers(Pair(row.key, row.prompt_ids, preferred, response), setup.answer_marker)


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
