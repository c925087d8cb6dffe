"""Responses kept in a journal while they are drawn, by one process or by several: none is drawn twice."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from demotune.common.journals import append_in_turn
from demotune.common.json_records import as_json, from_json
from demotune.common.progress import Tracker
from demotune.records import Response
from demotune.runs.phase_journal import PhaseJournal, share_of_this_process
from demotune.sampling.options import SamplingOptions
from demotune.sampling.pace import Pace
from demotune.sampling.protocol import Sampler


def draw_kept(
    journal: PhaseJournal,
    sampler: Callable[[], Sampler],
    prompts: Sequence[Sequence[int]],
    seed: int,
    options: SamplingOptions,
    *,
    tracker: Tracker | None = None,
    first_stream: int = 0,
    with_logps: bool = False,
    expected: float | None = None,
) -> list[Response]:
    """Responses to all prompts, in their order; the processes share those that the journal lacks.

    Prompt i has the random stream `first_stream` + i. `sampler` is asked for only when something is left to draw. The
    `tracker` first estimates the time left by `expected` tokens a response; None: as many as there may be.
    """
    left = [row for row in range(len(prompts)) if row not in journal.done]
    left.sort(key=lambda row: -len(prompts[row]))  # so that processes get prompts of like lengths
    if tracker:
        tracker.start_at(len(journal.done))

    def records() -> Iterator[dict[str, Any]]:
        pace = Pace(tracker, len(rows), expected, options.max_new_tokens) if tracker else None
        drawing = pace.listened(one) if pace else one
        for stream, response in drawing.draw([prompts[row] for row in rows], streams, seed, options):
            if pace:
                pace.finish(response, journal.news_of_others())
            yield {"row": stream - first_stream, **as_json(response if with_logps else replace(response, logps=None))}

    if left:
        one, rows = sampler(), share_of_this_process(left)
        streams = [first_stream + row for row in rows]
        with one.ready([prompts[row] for row in left], options):
            append_in_turn(records(), journal.append)
    found = journal.read_all(tracker.advance if tracker else lambda _: None)
    return [from_json(Response, found[row]) for row in range(len(prompts))]
