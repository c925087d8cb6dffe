"""What the processes of a phase have finished so far, row by row: it outlives a killed run."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from demotune.common.journals import Journal, KeptRows
from demotune.common.processes import main_process, process_count, process_state, wait_for_everyone
from demotune.runs.file_names import PARTIAL

Item = TypeVar("Item")
Compute = Callable[[Sequence[int]], Sequence[Mapping[str, Any]]]
"""The rows of a batch -> a record for each, which names its row."""


class PhaseJournal:
    """The journals `NAME-PROCESS.partial.jsonl` of a stage, one for each process."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        if main_process():
            for file in self._files():
                Journal(file)  # cuts off what is torn or damaged, of all processes, and says so
        wait_for_everyone()
        self.done: Mapping[int, dict[str, Any]] = self.read()
        self._own = Journal(self._file(process_state().process_index))
        others = [self._file(number) for number in range(process_count()) if number != process_state().process_index]
        self._counted = {file: file.stat().st_size if file.exists() else 0 for file in others}
        wait_for_everyone()  # nobody writes before everybody has read the same

    def read(self) -> Mapping[int, dict[str, Any]]:
        """Row number -> record, of all processes, as the files are now."""
        return KeptRows(self._files())

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        self._own.append(records)

    def news_of_others(self) -> int:
        """How many rows the other processes have finished since this was last asked; only the main process counts."""
        if not main_process():
            return 0
        found = 0
        for file, counted in self._counted.items():
            if file.exists() and file.stat().st_size > counted:
                with file.open("rb") as opened:
                    opened.seek(counted)
                    whole = opened.read().rpartition(b"\n")
                found += (whole[0] + whole[1]).count(b"\n")
                self._counted[file] += len(whole[0] + whole[1])
        return found

    def compute_missing(
        self, batches: Sequence[Sequence[int]], compute: Compute, advance: Callable[[int], None]
    ) -> Mapping[int, dict[str, Any]]:
        """Row number -> record of all rows: `compute` makes those of a batch, of which each process takes its share.

        A batch that is here already, whole, is not computed; `advance` counts rows as any process finishes them.
        """
        missing = [number for number, batch in enumerate(batches) if not all(row in self.done for row in batch)]
        for number in share_of_this_process(missing):
            self.append(compute(batches[number]))
            advance(len(batches[number]) + self.news_of_others())
        return self.read_all(advance)

    def read_all(self, advance: Callable[[int], None]) -> Mapping[int, dict[str, Any]]:
        """Row number -> record, once every process has done its share; `advance` counts what was not yet counted."""
        wait_for_everyone()
        if late := self.news_of_others():
            advance(late)
        return self.read()

    def start_over(self) -> None:
        """Forget all records, of all processes."""
        self.remove()
        wait_for_everyone()
        self.done = {}
        self._counted = dict.fromkeys(self._counted, 0)

    def remove(self) -> None:
        """Remove the files, of all processes."""
        if main_process():
            for file in self._files():
                file.unlink()

    def _file(self, process: int) -> Path:
        return self._folder / f"{self._name}-{process}{PARTIAL}"

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob(f"{self._name}-*{PARTIAL}"))


def share_of_this_process(items: Sequence[Item]) -> Sequence[Item]:
    """Every n-th of them, where n processes work."""
    state = process_state()
    return items[state.process_index :: state.num_processes]
