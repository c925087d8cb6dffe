"""SAMPLE: the start policy of the stage answers the prompts of its slice, and the held-out prompts."""

import time
from collections.abc import Sequence

from demotune.files import write_rows
from demotune.phases.pairs import SAMPLES
from demotune.phases.stage import PhaseJournal, Stage, share_of_this_process, stage_slice, staged
from demotune.processes import main_process, wait_for_everyone
from demotune.progress import track
from demotune.records import Response
from demotune.sampling import SamplingOptions, plan_batches, sample_responses


def sample_phase(stage: Stage) -> None:
    """Draw one response of pi_t for each prompt of the slice, and for each held-out prompt."""
    if stage.done("sample"):
        return
    started = time.monotonic()
    rows = [*stage_slice(stage.setup, stage.number), *stage.setup.heldout]
    responses = draw(stage, [row.prompt_ids for row in rows])
    trained_on = len(rows) - len(stage.setup.heldout)
    if main_process():
        decode = stage.setup.renderer.decode
        write_rows(
            stage.folder / SAMPLES,
            (
                {
                    "key": row.key,
                    "heldout": number >= trained_on,
                    "finished": response.finished,
                    "prompt": decode(row.prompt_ids),
                    "demonstration": decode(row.demo.ids),
                    "sample": decode(response.ids),
                    "prompt_ids": row.prompt_ids,
                    "demo_ids": row.demo.ids,
                    "demo_finished": row.demo.finished,
                    "sample_ids": response.ids,
                }
                for number, (row, response) in enumerate(zip(rows, responses, strict=True))
            ),
        )
    wait_for_everyone()
    tokens = sum(len(response.ids) for response in responses)
    stage.mark(
        "sample",
        started,
        [stage.folder / SAMPLES],
        seed=stage.seed("sample"),
        samples=len(responses),
        **{
            "completions/mean_length": tokens / len(responses),
            "completions/finished_share": sum(response.finished for response in responses) / len(responses),
        },
    )


def draw(stage: Stage, prompts: Sequence[Sequence[int]]) -> list[Response]:
    """Responses to all prompts, in their order; batches finished before an interruption are not drawn again."""
    config = staged(stage.setup)
    options = SamplingOptions(
        max_new_tokens=config.max_new_tokens or 1,
        max_length=config.max_length,
        stop_ids=stage.setup.renderer.stop_ids,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
        bf16=stage.setup.bf16,
    )
    journal = PhaseJournal(stage, "sampled")
    batches = [rows for rows in plan_batches(prompts, config.sample_batch_size) if not set(rows) <= journal.done.keys()]
    tokens = 0
    with track(f"stage {stage.number}: sample", len(prompts), "responses") as tracker:
        tracker.start_at(len(journal.done))
        for rows in share_of_this_process(batches):
            batch = list(
                sample_responses(
                    stage.start_policy, [prompts[row] for row in rows], rows, stage.seed("sample"), options
                )
            )
            journal.append([{"row": row, "ids": r.ids, "finished": r.finished} for row, r in batch])
            tokens += sum(len(response.ids) for _, response in batch)
            tracker.advance(len(batch), f"{tokens / max(tracker.seconds, 1e-9):.0f} tok/s")
    wait_for_everyone()
    drawn = journal.read()
    return [Response(tuple(drawn[row]["ids"]), drawn[row]["finished"]) for row in range(len(prompts))]
