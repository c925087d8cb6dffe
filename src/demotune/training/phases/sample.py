"""SAMPLE: the start policy of the stage answers the prompts of its slice, and the held-out prompts, M times each.

A sample that is its demonstration, token by token, makes a pair without a gradient: it is kept but makes no pair, and
another one is drawn for it, for a bounded number of rounds. Of later start policies one answer to each held-out prompt
was drawn when they were checked; it is the first of the M here.
"""

from collections.abc import Sequence
from statistics import fmean

from demotune.common.errors import DemotuneError
from demotune.common.json_records import write_records
from demotune.common.progress import say, track
from demotune.records import RenderedDemonstration, Response
from demotune.runs.file_names import SAMPLES
from demotune.runs.heldout_files import rows_before
from demotune.runs.rows import SampleRow
from demotune.training.drawing import draw_with
from demotune.training.stage import Outcome, Stage, stage_slice, tokens_of
from demotune.training.work import PhaseWork
from demotune.training.work_plan import StagePlan

ROUNDS = 3
"""How often samples that equal their demonstration are drawn again: a policy that knows a row by heart may write it
every time."""


class NothingToLearn(DemotuneError):  # noqa: N818 (a later stage may end a run so, without an error)
    """All samples of a stage are their demonstrations."""


def run(stage: Stage) -> Outcome:
    """M responses of pi_t to each prompt of the slice, and to each held-out prompt, that differ from its demonstration.

    Raises NothingToLearn where no response to a prompt of the slice does.
    """
    own, heldout = stage_slice(stage.setup, stage.number), stage.setup.heldout
    rows = [*own, *heldout]
    known = rows_before(stage.setup.folder, stage.number) if stage.number and heldout else []
    samples: dict[str, list[Response]] = {row.key: [] for row in rows} | {row.key: [row.response] for row in known}
    forward_tokens = _draw_all(stage, rows, samples)
    decode = stage.setup.renderer.decode
    records = [
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
        for number, row in enumerate(rows)
        for response in samples[row.key]
    ]
    facts = _count(records)
    _say_equal(stage, facts)
    return Outcome(
        outputs={SAMPLES: lambda file: write_records(file, records)},
        forward_tokens=forward_tokens,
        facts={
            "seed": stage.seed("sample"),
            "sampler": stage.setup.config.sampler,
            "samples_per_prompt": stage.setup.samples_per_prompt,
            **facts,
            "completions/mean_length": fmean(len(row.sample_ids) for row in records),
            "completions/finished_share": fmean(row.finished for row in records),
        },
    )


def work(plan: StagePlan) -> PhaseWork:
    """M responses to each of the stage's own prompts, and to held-out ones, of which later stages know the first."""
    count = plan.setup.samples_per_prompt
    heldout = plan.heldout * (count - (1 if plan.number else 0))
    return PhaseWork(draws=plan.draws([*plan.own * count, *heldout]), loads=1)


def _draw_all(stage: Stage, rows: Sequence[RenderedDemonstration], samples: dict[str, list[Response]]) -> int:
    """Fill up `samples`, key -> responses, until each row has M that differ, or all rounds are over.

    Returns how many tokens that took. The first samples of the rows have the streams that they have where M is 1, and
    each round has streams of its own.
    """
    count, tokens = stage.setup.samples_per_prompt, 0
    wanted = [row for row in rows if not samples[row.key]] + [*rows] * (count - 1)
    rounds = ROUNDS if stage.setup.config.temperature else 0  # greedy samples would be the same again
    for number in range(1 + rounds):
        title = f"{stage.title}: sample" + (f" again ({number} of {rounds})" if number else "")
        prompts = [row.prompt_ids for row in wanted]
        with track(title, len(prompts), "responses") as tracker:
            drawn = draw_with(
                stage,
                lambda: stage.start_policy,
                prompts,
                purpose="sample",
                tracker=tracker,
                first_stream=number * len(rows) * count,
            )
        for row, response in zip(wanted, drawn, strict=True):
            samples[row.key].append(response)
        tokens += tokens_of(zip(prompts, drawn, strict=True))
        wanted = [row for row in rows for _ in range(_missing(row, samples[row.key], count))]
        if not wanted:
            break
    return tokens


def _missing(row: RenderedDemonstration, samples: Sequence[Response], count: int) -> int:
    """How many more samples a row needs, to have so many that differ from its demonstration."""
    return count - sum(sample.ids != row.demo.ids for sample in samples)


def _count(records: Sequence[SampleRow]) -> dict[str, int]:
    """For the stage's record: samples and pairs, and what makes no pair."""
    own, heldout = ([row for row in records if row.heldout == side] for side in (False, True))
    differing = [row for row in own if not row.equal]
    return {
        "samples": len(records),
        "pairs": len(differing),
        "equal_samples": len(own) - len(differing),
        "rows_without_pairs": len({row.key for row in own}) - len({row.key for row in differing}),
        "equal_heldout_samples": sum(row.equal for row in heldout),
    }


def _say_equal(stage: Stage, facts: dict[str, int]) -> None:
    """Say how many pairs were dropped. Raises NothingToLearn where that is all of them."""
    equal, pairs, without = (facts[name] for name in ("equal_samples", "pairs", "rows_without_pairs"))
    if not pairs:
        raise NothingToLearn(
            f"all {equal} samples of {stage.title} are their demonstrations, token by token, so there is no "
            "pair to learn from: the policy knows its rows by heart. Start from a model with fewer passes of SFT "
            "(--num-train-epochs), take more demonstrations, or sample at a higher --temperature"
        )
    if equal:
        say(
            f"{stage.title}: {equal} of {equal + pairs} samples are their demonstration, token by token: they "
            f"make no pair; {pairs} pairs are left" + (f", and {without} rows have none" if without else "")
        )
