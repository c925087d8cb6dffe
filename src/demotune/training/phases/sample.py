"""SAMPLE: the start policy of the stage answers the prompts of its slice, and the held-out prompts, M times each.

A sample that is its demonstration makes a pair without a gradient, and one that has its answer (`answer_after`) a pair
that prefers an answer to itself: it is kept but makes no pair, and another one is drawn for it, for a bounded number of
rounds. Of later start policies one answer to each held-out prompt was drawn when they were checked; it is the first of
the M here.
"""

from collections.abc import Iterator

import numpy as np

from demotune.common.errors import DemotuneError
from demotune.common.json_records import write_records
from demotune.common.progress import say
from demotune.common.sequences import Joined, Mapped
from demotune.records import Pair
from demotune.rewards.answer_only import with_thoughts
from demotune.runs.file_names import SAMPLES
from demotune.runs.heldout_files import rows_before
from demotune.runs.rows import SampleRow
from demotune.training.row_samples import RowSamples, draw_samples
from demotune.training.setup import Setup
from demotune.training.stage import Outcome, Stage, stage_slice
from demotune.training.work import PhaseWork
from demotune.training.work_plan import StagePlan


class NothingToLearn(DemotuneError):  # noqa: N818 (a later stage may end a run so, without an error)
    """All samples of a stage equal their demonstrations."""


def run(stage: Stage) -> Outcome:
    """M responses of pi_t to each prompt of the slice, and to each held-out prompt, that differ from its demonstration.

    Raises NothingToLearn where no response to a prompt of the slice does.
    """
    setup, number = stage.setup, stage.number
    own = stage_slice(setup, number)
    rows = Joined(own, setup.heldout)
    demonstrations = Mapped(lambda place: rows[place].demo, range(len(rows)))
    samples = RowSamples(rows, demonstrations, setup.answer_marker)
    if number and len(setup.heldout):
        known = rows_before(setup.folder, number)
        samples.add(np.arange(len(own), len(rows)), [row.response for row in known])
    forward_tokens = draw_samples(
        stage, samples, lambda: stage.start_policy, purpose="sample", title=f"{stage.title}: sample"
    )
    facts = _count(samples, len(own))
    _say_equal(stage, facts)
    return Outcome(
        outputs={SAMPLES: lambda file: write_records(file, _records(samples, len(own), setup))},
        forward_tokens=forward_tokens,
        facts={
            "seed": stage.seed("sample"),
            "sampler": setup.config.sampler,
            "samples_per_prompt": setup.samples_per_prompt,
            **facts,
            "completions/mean_length": float(samples.lengths.mean()),
            "completions/finished_share": float(samples.finished.mean()),
        },
    )


def _records(samples: RowSamples, own: int, setup: Setup) -> Iterator[SampleRow]:
    """Row by row, the samples of each in the order in which they were drawn; the first `own` rows are trained on."""
    decode, marker = setup.renderer.decode, setup.answer_marker
    for place, response in samples.by_row():
        row = samples.rows[place]
        pair = with_thoughts(Pair(row.key, row.prompt_ids, row.demo, response), marker)
        yield SampleRow(
            key=pair.key,
            heldout=place >= own,
            finished=pair.sample.finished,
            prompt=decode(pair.prompt_ids),
            demonstration=decode(pair.demo.ids),
            sample=decode(pair.sample.ids),
            prompt_ids=pair.prompt_ids,
            demo_ids=pair.demo.ids,
            demo_finished=pair.demo.finished,
            sample_ids=pair.sample.ids,
            demo_thought=pair.demo_thought if marker else None,
            sample_thought=pair.sample_thought if marker else None,
        )


def _count(samples: RowSamples, own: int) -> dict[str, int]:
    """For the stage's record: samples and pairs of the first `own` rows, and what makes no pair."""
    trained = samples.places < own
    return {
        "samples": len(trained),
        "pairs": int((trained & ~samples.equal).sum()),
        "equal_samples": int((trained & samples.equal).sum()),
        "rows_without_pairs": int((samples.differing()[:own] == 0).sum()),
        "equal_heldout_samples": int((~trained & samples.equal).sum()),
    }


def work(plan: StagePlan) -> PhaseWork:
    """M responses to each of the stage's own prompts, and to held-out ones, of which later stages know the first."""
    count = plan.setup.samples_per_prompt
    own, heldout = [plan.own] * count, [plan.heldout] * (count - (1 if plan.number else 0))
    return PhaseWork(draws=plan.draws(Joined(*own, *heldout)), loads=1)


def _say_equal(stage: Stage, facts: dict[str, int]) -> None:
    """Say how many pairs were dropped. Raises NothingToLearn where that is all of them."""
    equal, pairs, without = (facts[name] for name in ("equal_samples", "pairs", "rows_without_pairs"))
    if not pairs:
        ways = ["start from a model with fewer passes of SFT (--num-train-epochs)", "take more demonstrations"]
        if stage.setup.config.learned_reward == "implicit":  # RFT samples at temperature 1
            ways.append("sample at a higher --temperature")
        raise NothingToLearn(
            f"all {equal} samples of {stage.title} give the same answers as their demonstrations, so there is no pair "
            f"to learn from; {', '.join(ways[:-1])}, or {ways[-1]}"
        )
    if equal:
        say(
            f"{stage.title}: {equal} of {equal + pairs} samples give the same answer as their demonstration: they make "
            f"no pair; {pairs} pairs are left" + (f", and {without} rows have none" if without else "")
        )
