"""Held-out demonstrations under the policies of a run, row by row, with each policy's own answers, kept in files."""

from collections.abc import Callable
from pathlib import Path

from demotune.files import read_rows, write_rows
from demotune.heldout import HeldoutRow
from demotune.models import Policy
from demotune.phases.pairs import sampled_pairs
from demotune.phases.sample import draw_with
from demotune.phases.stage import Stage
from demotune.profiling import timed
from demotune.progress import track
from demotune.records import Response
from demotune.run_folder import RunFolder
from demotune.scoring import score_demonstrations

START, HELDOUT = "start.jsonl.gz", "heldout.jsonl.gz"


def start_rows(stage: Stage) -> list[HeldoutRow]:
    """Held-out rows under the start model; its answers are those of the SAMPLE phase where there is one."""
    if stage.done("sample"):
        answers = [pair.sample for pair in sampled_pairs(stage.setup, stage.number, heldout=True)]
    else:
        answers = _answers(stage, lambda: stage.start_policy, "start", "start model: held-out answers")
    return _rows(stage, stage.start_policy, answers, "start model: held-out")


def trained_rows(stage: Stage) -> list[HeldoutRow]:
    """Held-out rows under the policy that the stage trained, with fresh answers."""
    name = f"stage {stage.number}: held-out"
    answers = _answers(stage, lambda: stage.trained_policy, "check", f"{name} answers")
    return _rows(stage, stage.trained_policy, answers, name)


def write_heldout(file: Path, rows: list[HeldoutRow]) -> None:
    """One JSON object a row: texts, token ids of the answer, log-probability of the demonstration."""
    write_rows(
        file,
        (
            {
                "key": row.key,
                "prompt": row.prompt,
                "demonstration": row.demonstration,
                "demo_logp": row.demo_logp,
                "demo_tokens": row.demo_tokens,
                "sample": row.sample_text,
                "sample_ids": row.sample.ids,
                "finished": row.sample.finished,
            }
            for row in rows
        ),
    )


def read_heldout(file: Path) -> list[HeldoutRow]:
    """Rows written by `write_heldout`."""
    return [
        HeldoutRow(
            key=row["key"],
            prompt=row["prompt"],
            demonstration=row["demonstration"],
            demo_logp=row["demo_logp"],
            demo_tokens=row["demo_tokens"],
            sample=Response(tuple(row["sample_ids"]), row["finished"]),
            sample_text=row["sample"],
        )
        for row in read_rows(file)
    ]


def best_before(folder: RunFolder, number: int) -> tuple[str, Path]:
    """(name, held-out rows) of the best policy before stage `number`: the last stage that was not called worse."""
    for earlier in reversed(range(number)):
        if folder.stage_check(earlier).get("gate", {}).get("best"):
            return f"stage {earlier}", folder.stage(earlier) / HELDOUT
    return "start model", folder.stage(0) / START


def _answers(stage: Stage, policy: Callable[[], Policy], purpose: str, what: str) -> list[Response]:
    prompts = [row.prompt_ids for row in stage.setup.heldout]
    with track(what, len(prompts), "responses") as tracker:
        return draw_with(stage, policy, prompts, purpose=purpose, tracker=tracker)


@timed("scoring")
def _rows(stage: Stage, policy: Policy, answers: list[Response], what: str) -> list[HeldoutRow]:
    demonstrations, config = stage.setup.heldout, stage.setup.config
    decode = stage.setup.renderer.decode
    with track(what, len(demonstrations), "rows") as tracker:
        logps = score_demonstrations(
            policy,
            demonstrations,
            config.per_device_train_batch_size,
            bf16=stage.setup.bf16,
            advance=tracker.advance,
        )
    return [
        HeldoutRow(
            key=row.key,
            prompt=decode(row.prompt_ids),
            demonstration=decode(row.demo.ids),
            demo_logp=logp,
            demo_tokens=len(row.demo.ids),
            sample=answer,
            sample_text=decode(answer.ids),
        )
        for row, logp, answer in zip(demonstrations, logps, answers, strict=True)
    ]
