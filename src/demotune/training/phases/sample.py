"""SAMPLE: the start policy of the stage answers the prompts of its slice, and the held-out prompts.

Held-out prompts only in the first stage: the answers of every later start policy were drawn when it was checked.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from torch import nn

from demotune.common.files import write_rows
from demotune.common.processes import main_process, wait_for_everyone
from demotune.common.profiling import timed
from demotune.common.progress import Tracker, track
from demotune.config.methods import RFTConfig, SFTConfig
from demotune.records import Response
from demotune.runs.heldout_files import rows_before
from demotune.runs.names import SAMPLES
from demotune.sampling import SamplingOptions, sample_responses
from demotune.sampling.in_process.choosing import keeps_logps
from demotune.training.phases.stage import PhaseJournal, Stage, Work, share_of_this_process, stage_slice, tokens_of
from demotune.training.setup import Setup

SFT_BATCH = 64
"""Held-out prompts that SFT answers together."""
ROWS_KEPT_TOGETHER = 16
SECONDS_UNKEPT = 1.0
"""Finished responses that a killed process may cost: so many, or those of so long a time."""


def sample_phase(stage: Stage) -> None:
    """One response of pi_t to each prompt of the slice, and to each held-out prompt."""
    if stage.done("sample"):
        return
    started = time.monotonic()
    own, heldout = stage_slice(stage.setup, stage.number), stage.setup.heldout
    rows = [*own, *heldout]
    to_draw = [row.prompt_ids for row in (own if stage.number else rows)]
    with track(f"stage {stage.number}: sample", len(to_draw), "responses") as tracker:
        drawn = draw_with(stage, lambda: stage.start_policy, to_draw, purpose="sample", tracker=tracker)
    kept = rows_before(stage.setup.folder, stage.number) if stage.number and heldout else []
    samples = [*drawn, *(row.sample for row in kept)]
    if main_process():
        decode = stage.setup.renderer.decode
        write_rows(
            stage.folder / SAMPLES,
            (
                {
                    "key": row.key,
                    "heldout": number >= len(own),
                    "finished": response.finished,
                    "prompt": decode(row.prompt_ids),
                    "demonstration": decode(row.demo.ids),
                    "sample": decode(response.ids),
                    "prompt_ids": row.prompt_ids,
                    "demo_ids": row.demo.ids,
                    "demo_finished": row.demo.finished,
                    "sample_ids": response.ids,
                }
                for number, (row, response) in enumerate(zip(rows, samples, strict=True))
            ),
        )
    wait_for_everyone()
    mean_length = fmean(len(response.ids) for response in samples)
    stage.mark(
        "sample",
        started,
        [stage.folder / SAMPLES],
        Work(forward=tokens_of(zip(to_draw, drawn, strict=True))),
        seed=stage.seed("sample"),
        samples=len(samples),
        **{
            "completions/mean_length": mean_length,
            "completions/finished_share": fmean(response.finished for response in samples),
        },
    )


@timed("sampling")
def draw_with(
    stage: Stage,
    policy: Callable[[], nn.Module],
    prompts: Sequence[Sequence[int]],
    *,
    purpose: str,
    tracker: Tracker | None = None,
    first_stream: int = 0,
    with_logps: bool = False,
) -> list[Response]:
    """Responses to all prompts, in their order; rows finished before an interruption are not drawn again.

    `purpose` names the journal and the seed; prompt i has the random stream `first_stream` + i of that seed. `policy`
    is asked for only when something is left to draw. `with_logps` keeps what drawing tells (see `tells_logps`). The
    last bits of these numbers depend on the rows that are drawn together, so then an interrupted drawing begins anew.
    """
    config, seed = stage.setup.config, stage.seed(purpose)
    slots = SFT_BATCH if isinstance(config, SFTConfig) else config.sample_batch_size
    journal = PhaseJournal(stage, f"{purpose}-{first_stream}")
    if with_logps and sum("logps" in record for record in journal.done.values()) < len(prompts):
        journal.start_over()
    left = [row for row in range(len(prompts)) if row not in journal.done]
    left.sort(key=lambda row: -len(prompts[row]))  # so that processes get prompts of like lengths
    if tracker:
        tracker.start_at(len(journal.done))
    if rows := share_of_this_process(left):
        streams = [first_stream + row for row in rows]
        drawn = sample_responses(
            policy(), [prompts[row] for row in rows], streams, seed, sampling_options(stage.setup), slots=slots
        )
        numbered = ((stream - first_stream, response) for stream, response in drawn)
        _keep(numbered, journal, tracker, with_logps=with_logps)
    wait_for_everyone()
    found = journal.read()
    return [_response(found[row]) for row in range(len(prompts))]


def _response(record: Mapping[str, Any]) -> Response:
    logps = tuple(record["logps"]) if "logps" in record else None
    return Response(tuple(record["ids"]), record["finished"], logps)


def _keep(
    drawn: Iterable[tuple[int, Response]], journal: PhaseJournal, tracker: Tracker | None, *, with_logps: bool = False
) -> None:
    """Write (row, response) to the journal, several at a time: each time waits for the disk."""
    unkept: list[dict[str, Any]] = []
    tokens, last = 0, time.monotonic()
    try:
        for row, response in drawn:
            told = {"logps": response.logps} if with_logps else {}
            unkept.append({"row": row, "ids": response.ids, "finished": response.finished} | told)
            tokens += len(response.ids)
            if tracker:
                tracker.advance(1, f"{tokens / max(tracker.seconds, 1e-9):.0f} tok/s")
            if len(unkept) >= ROWS_KEPT_TOGETHER or time.monotonic() - last >= SECONDS_UNKEPT:
                journal.append(unkept)
                unkept, last = [], time.monotonic()
    except (Exception, KeyboardInterrupt):
        if unkept:
            journal.append(unkept)
        raise
    if unkept:
        journal.append(unkept)


def sampling_options(setup: Setup) -> SamplingOptions:
    """How this run samples. SFT and RFT have no choice: their answers are those of the policy as it is."""
    config = setup.config
    truncation: dict[str, Any] = {}
    if not isinstance(config, SFTConfig | RFTConfig):
        truncation = {"temperature": config.temperature, "top_p": config.top_p, "top_k": config.top_k}
    longest = None if isinstance(config, SFTConfig) else config.max_new_tokens
    return SamplingOptions(
        max_new_tokens=longest or max(len(row.demo.ids) for row in setup.train),
        max_length=config.max_length,
        stop_ids=setup.renderer.stop_ids,
        vocabulary=setup.renderer.vocabulary,
        bf16=setup.bf16,
        **truncation,
    )


def tells_logps(setup: Setup) -> bool:
    """Whether drawing also tells the policy's log-probabilities."""
    return setup.float32 and keeps_logps(sampling_options(setup))
