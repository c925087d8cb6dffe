"""Which file holds the held-out rows of an earlier policy: each policy, from the start model on, has one."""

from pathlib import Path

from demotune.common.json_records import read_records
from demotune.runs.file_names import HELDOUT, START
from demotune.runs.folder import RunFolder
from demotune.runs.heldout import HeldoutRow


def best_before(folder: RunFolder, number: int) -> tuple[str, Path]:
    """(name, held-out rows) of the best policy before stage `number`: the last stage that was not called worse."""
    for earlier in reversed(range(number)):
        gate = folder.stage_check(earlier).gate
        if gate is not None and gate.best:
            return f"stage {earlier}", folder.stage(earlier) / HELDOUT
    return "start model", folder.stage(0) / START


def rows_before(folder: RunFolder, number: int) -> tuple[HeldoutRow, ...]:
    """Held-out rows under pi_t, which stage t = `number` starts from."""
    return read_records(HeldoutRow, folder.stage(number - 1) / HELDOUT if number else folder.stage(0) / START)
