"""The files of a run's held-out rows: each of its policies, from the start model on, has one."""

from pathlib import Path

from demotune.common.files import read_rows, write_rows
from demotune.records import Response
from demotune.runs.folder import RunFolder
from demotune.runs.heldout import HeldoutRow

START, HELDOUT = "start.jsonl.gz", "heldout.jsonl.gz"


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


def rows_before(folder: RunFolder, number: int) -> list[HeldoutRow]:
    """Held-out rows under pi_t, which stage t = `number` starts from."""
    return read_heldout(folder.stage(number - 1) / HELDOUT if number else folder.stage(0) / START)
