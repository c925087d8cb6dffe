"""The files of a run's held-out rows: each of its policies, from the start model on, has one."""

from collections.abc import Iterable
from pathlib import Path

from demotune.common.files import read_rows, write_rows
from demotune.records import Response
from demotune.runs.folder import RunFolder, written_by_a_run
from demotune.runs.heldout import HeldoutRow
from demotune.runs.names import HELDOUT, START


def write_heldout(file: Path, rows: Iterable[HeldoutRow]) -> None:
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
    """Rows written by `write_heldout`. Raises DemotuneError where the file is not what was written."""
    with written_by_a_run(file):
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
        gate = folder.stage_check(earlier).gate
        if gate is not None and gate.best:
            return f"stage {earlier}", folder.stage(earlier) / HELDOUT
    return "start model", folder.stage(0) / START


def rows_before(folder: RunFolder, number: int) -> list[HeldoutRow]:
    """Held-out rows under pi_t, which stage t = `number` starts from."""
    return read_heldout(folder.stage(number - 1) / HELDOUT if number else folder.stage(0) / START)
