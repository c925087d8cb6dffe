"""SAMPLE: the start policy of the stage answers the prompts of its slice, and the held-out prompts, M times each.

A sample that is its demonstration, token by token, makes a pair without a gradient, and one that has its answer
(`answer_after`) a pair that prefers an answer to itself: it is kept but makes no pair, and another one is drawn for it,
for a bounded number of rounds. Of later start policies one answer to each held-out prompt was drawn when they were
checked; it is the first of the M here.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from demotune.common.errors import DemotuneError
from demotune.common.json_records import write_records
from demotune.common.progress import say, track
from demotune.common.sequences import Joined, Mapped
from demotune.data.rendered_rows import RenderedRows
from demotune.records import Pair, Response
from demotune.rewards.answer_only import AnswerMarker, equal_answers, with_thoughts
from demotune.runs.file_names import SAMPLES
from demotune.runs.heldout_files import rows_before
from demotune.runs.rows import SampleRow
from demotune.training.drawing import draw_with, drawing_rounds
from demotune.training.stage import Outcome, Stage, stage_slice, tokens_of
from demotune.training.work import PhaseWork
from demotune.training.work_plan import StagePlan


class NothingToLearn(DemotuneError):  # noqa: N818 (a later stage may end a run so, without an error)
    """All samples of a stage equal their demonstrations."""


def run(stage: Stage) -> Outcome:
    """M responses of pi_t to each prompt of the slice, and to each held-out prompt, that differ from its demonstration.

    Raises NothingToLearn where no response to a prompt of the slice does.
    """
    own, heldout = stage_slice(stage.setup, stage.number), stage.setup.heldout
    samples = _Samples(own, heldout, stage.setup.answer_marker)
    if stage.number and len(heldout):
        known = rows_before(stage.setup.folder, stage.number)
        samples.add(np.arange(len(own), len(samples.rows)), [row.response for row in known])
    forward_tokens = _draw_all(stage, samples)
    facts = samples.count()
    _say_equal(stage, facts)
    return Outcome(
        outputs={SAMPLES: lambda file: write_records(file, samples.records(stage.setup.renderer.decode))},
        forward_tokens=forward_tokens,
        facts={
            "seed": stage.seed("sample"),
            "sampler": stage.setup.config.sampler,
            "samples_per_prompt": stage.setup.samples_per_prompt,
            **facts,
            "completions/mean_length": float(samples.lengths.mean()),
            "completions/finished_share": float(samples.finished.mean()),
        },
    )


class _Samples:
    """The samples of a stage's own rows and of the held-out ones, in the order in which they were drawn."""

    def __init__(self, own: RenderedRows, heldout: RenderedRows, marker: AnswerMarker | None) -> None:
        self.rows, self._marker = Joined(own, heldout), marker
        self._own, self._drawn = len(own), Joined[Response]()
        # One number a sample: the place of its row, its length, whether it ended, whether it is its demonstration.
        self._places, self.lengths = np.empty(0, np.int64), np.empty(0, np.int64)
        self.finished, self._equal = np.empty(0, bool), np.empty(0, bool)

    def add(self, places: NDArray[np.int64], responses: Sequence[Response]) -> None:
        """A response to each of the rows at these places."""
        numbers = np.array(
            [
                (len(response.ids), response.finished, equal_answers(self._pair(place, response), self._marker))
                for place, response in zip(places.tolist(), responses, strict=True)
            ],
            np.int64,
        ).reshape(-1, 3)
        self._drawn = Joined(self._drawn, responses)
        self._places = np.append(self._places, places)
        self.lengths = np.append(self.lengths, numbers[:, 0])
        self.finished = np.append(self.finished, numbers[:, 1] > 0)
        self._equal = np.append(self._equal, numbers[:, 2] > 0)

    def _pair(self, place: int, response: Response) -> Pair:
        row = self.rows[place]
        return Pair(row.key, row.prompt_ids, row.demo, response)

    def without(self) -> NDArray[np.int64]:
        """The places of rows that have no sample yet."""
        return np.flatnonzero(np.bincount(self._places, minlength=len(self.rows)) == 0)

    def lacking(self, count: int) -> NDArray[np.int64]:
        """The place of each row, as often as it lacks samples that differ from its demonstration, to have `count`."""
        return np.repeat(np.arange(len(self.rows)), np.maximum(count - self._differing(), 0))

    def _differing(self) -> NDArray[np.int64]:
        """How many samples of each row differ from its demonstration."""
        return np.bincount(self._places[~self._equal], minlength=len(self.rows))

    def records(self, decode: Callable[[Sequence[int]], str]) -> Iterator[SampleRow]:
        """Row by row, the samples of each in the order in which they were drawn."""
        for number in np.argsort(self._places, kind="stable").tolist():
            place = int(self._places[number])
            pair = with_thoughts(self._pair(place, self._drawn[number]), self._marker)
            yield SampleRow(
                key=pair.key,
                heldout=place >= self._own,
                finished=pair.sample.finished,
                prompt=decode(pair.prompt_ids),
                demonstration=decode(pair.demo.ids),
                sample=decode(pair.sample.ids),
                prompt_ids=pair.prompt_ids,
                demo_ids=pair.demo.ids,
                demo_finished=pair.demo.finished,
                sample_ids=pair.sample.ids,
                demo_thought=pair.demo_thought if self._marker else None,
                sample_thought=pair.sample_thought if self._marker else None,
            )

    def count(self) -> dict[str, int]:
        """For the stage's record: samples and pairs, and what makes no pair."""
        own = self._places < self._own
        return {
            "samples": len(own),
            "pairs": int((own & ~self._equal).sum()),
            "equal_samples": int((own & self._equal).sum()),
            "rows_without_pairs": int((self._differing()[: self._own] == 0).sum()),
            "equal_heldout_samples": int((~own & self._equal).sum()),
        }


def work(plan: StagePlan) -> PhaseWork:
    """M responses to each of the stage's own prompts, and to held-out ones, of which later stages know the first."""
    count = plan.setup.samples_per_prompt
    own, heldout = [plan.own] * count, [plan.heldout] * (count - (1 if plan.number else 0))
    return PhaseWork(draws=plan.draws(Joined(*own, *heldout)), loads=1)


def _draw_all(stage: Stage, samples: _Samples) -> int:
    """Draw until each row has M samples that differ, or all rounds are over; returns how many tokens that took.

    The first samples of the rows have the streams that they have where M is 1, and each round has streams of its own.
    """
    count, tokens, rows = stage.setup.samples_per_prompt, 0, samples.rows
    wanted = np.append(samples.without(), np.tile(np.arange(len(rows)), count - 1))
    for number, again in drawing_rounds(stage.setup):
        title = f"{stage.title}: sample{again}"
        prompts = Mapped(lambda place: rows[place].prompt_ids, wanted)
        with track(title, len(prompts), "responses") as tracker:
            drawn = draw_with(
                stage,
                lambda: stage.start_policy,
                prompts,
                purpose="sample",
                tracker=tracker,
                first_stream=number * len(rows) * count,
            )
        samples.add(wanted, drawn)
        tokens += tokens_of(zip(prompts, drawn, strict=True))
        wanted = samples.lacking(count)
        if not len(wanted):
            break
    return tokens


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
