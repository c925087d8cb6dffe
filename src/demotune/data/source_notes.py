"""Which columns a source has and which of them were used: its lines for the screen."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from demotune.data.extra_columns import is_given
from demotune.data.raw_rows import RawRow, column_list
from demotune.data.turns import MEDIA_NAMES, Remarks

_SHOWN_NAMES = 20


@dataclass(slots=True)
class SourceNotes:
    """Columns and remarks over all rows of a source."""

    found: dict[str, None] = field(default_factory=dict)
    used: dict[str, None] = field(default_factory=dict)
    looked_at: set[str] = field(default_factory=set)
    """Columns that the format reads; where no good row has a value in one, it is not mentioned."""
    remarks: Remarks = field(default_factory=Remarks)
    passed_over: tuple[str, ...] = ()
    """Files that look like data and are not read."""

    def count(self, row: RawRow, reads: Iterable[str], remarks: Remarks) -> None:
        """Add a row that was used."""
        for name in reads:
            if name not in self.used and is_given(row.columns.get(name)):
                self.used[name] = None
        if remarks:
            self.remarks.update(remarks)

    def lines(self, source: str, formats: str) -> list[str]:
        """Lines about the source: format and columns first, then each remark."""
        unused = [name for name in self.found if name not in {*self.used, *self.looked_at, *MEDIA_NAMES}]
        columns = f"; columns used: {_names(list(self.used))}" if self.used else ""
        columns += f"; not used: {_names(unused)}" if unused else ""
        remarks = self._remarks()
        if self.passed_over:
            remarks.append(f"files not read (unpack or convert them first): {_names(list(self.passed_over))}")
        return [f"read {source}: {formats}{columns}", *(f"{source}: {line}" for line in remarks)]

    def _remarks(self) -> list[str]:
        items: dict[str, list[str]] = {}
        for (heading, item), count in self.remarks.items():
            items.setdefault(heading, []).append(f"{item} ({count}×)" if item else str(count))
        return [f"{heading}: {_names(found)}" for heading, found in items.items()]


def _names(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return column_list(names[:_SHOWN_NAMES]) + more
