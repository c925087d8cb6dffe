"""What the processes of a phase have finished so far, row by row: it outlives a killed run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from demotune.common.journals import Journal, read_journal
from demotune.common.processes import main_process, process_state, wait_for_everyone
from demotune.runs.names import PARTIAL


class PhaseJournal:
    """The journals `NAME-PROCESS.partial.jsonl` of a stage, one for each process."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        if main_process():
            for file in self._files():
                Journal(file)  # cuts off what is torn or damaged, of all processes, and says so
        wait_for_everyone()
        self.done = self.read()
        self._own = Journal(folder / f"{name}-{process_state().process_index}{PARTIAL}")
        wait_for_everyone()  # nobody writes before everybody has read the same

    def read(self) -> dict[int, dict[str, Any]]:
        """Row number -> record, of all processes."""
        return {record["row"]: record for file in self._files() for record in read_journal(file)}

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        self._own.append(records)

    def start_over(self) -> None:
        """Forget all records, of all processes."""
        if main_process():
            for file in self._files():
                file.unlink()
        wait_for_everyone()
        self.done = {}

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob(f"{self._name}-*{PARTIAL}"))


def share_of_this_process(batches: Sequence[Any]) -> Sequence[Any]:
    """Every n-th batch, where n processes work."""
    state = process_state()
    return batches[state.process_index :: state.num_processes]
