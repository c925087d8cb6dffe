"""Responses kept in a journal while they are drawn, by one process or by several: none is drawn twice."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from demotune.common.journals import append_in_turn
from demotune.common.json_records import as_json, from_json
from demotune.common.progress import Tracker
from demotune.common.record_arrays import RecordArrays
from demotune.common.sequences import Mapped
from demotune.records import Response
from demotune.runs.phase_journal import PhaseJournal, share_of_this_process
from demotune.sampling.options import SamplingOptions
from demotune.sampling.pace import Pace
from demotune.sampling.protocol import Sampler

DRAWN_TOGETHER = 2**14
"""Prompts that a sampler gets at a time: what it keeps of each one is in memory."""


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
) -> Sequence[Response]:
    """Responses to all prompts, in their order; the processes share those that the journal lacks.

    Prompt i has the random stream `first_stream` + i. `sampler` is asked for only when something is left to draw. The
    `tracker` first estimates the time left by `expected` tokens a response; None: as many as there may be.
    """
    missing = np.fromiter((row for row in range(len(prompts)) if row not in journal.done), np.int64)
    lengths = np.fromiter((len(prompts[row]) for row in missing), np.int64, len(missing))
    left = missing[np.argsort(-lengths, kind="stable")]  # so that processes get prompts of like lengths
    if tracker:
        tracker.start_at(len(journal.done))

    def records() -> Iterator[dict[str, Any]]:
        pace = Pace(tracker, len(rows), expected, options.max_new_tokens) if tracker else None
        drawing = pace.listened(one) if pace else one
        for start in range(0, len(rows), DRAWN_TOGETHER):
            some = [int(left[place]) for place in rows[start : start + DRAWN_TOGETHER]]
            streams = [first_stream + row for row in some]
            for stream, response in drawing.draw([prompts[row] for row in some], streams, seed, options):
                if pace:
                    pace.finish(response, journal.news_of_others())
                kept = response if with_logps else replace(response, logps=None)
                yield {"row": stream - first_stream, **as_json(kept)}

    if len(left):
        one, rows = sampler(), share_of_this_process(range(len(left)))
        with one.ready(Mapped(prompts.__getitem__, left), options):
            append_in_turn(records(), journal.append)
    found = journal.read_all(tracker.advance if tracker else lambda _: None)
    return RecordArrays(Response, (from_json(Response, found[row]) for row in range(len(prompts))))
