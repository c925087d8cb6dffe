"""Rows for tests that have them in memory."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

from demotune.data.rendered_rows import RenderedRows, RowFile, RowWriter
from demotune.records import RenderedDemonstration


def rendered_rows(rows: Iterable[RenderedDemonstration]) -> RenderedRows:
    """These rows as a run has them."""
    with tempfile.TemporaryDirectory() as folder:
        with RowWriter(Path(folder, "rows.arrow")) as writer:
            for row in rows:
                writer.add(row)
        return RenderedRows(RowFile(Path(folder, "rows.arrow")))
