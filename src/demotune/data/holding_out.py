"""Which rows are held out: by a hash of the prompt, so that the same rows fall out in every run and data set."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demotune.common.amounts import plural
from demotune.config.methods import AnyConfig
from demotune.data.rendered_rows import RenderedRows

_FEW_ROWS = 10
"""With fewer rows than this, eval_share alone decides; otherwise at least one row is held out."""


@dataclass(frozen=True, slots=True)
class Split:
    train: RenderedRows
    heldout: RenderedRows
    note: str


def hold_out_share(rows: RenderedRows, config: AnyConfig) -> Split:
    """Hold out the rows whose question falls into `eval_share`; at most `max_eval_rows`, the others are trained on."""
    questions, first = np.unique(rows.questions, return_index=True)
    order = np.lexsort((first, _places(questions)))
    questions, places = questions[order], _places(questions)[order]
    chosen = int(np.count_nonzero(places < config.eval_share))
    if config.eval_share > 0 and not chosen and len(rows) >= _FEW_ROWS:
        chosen = 1
    if chosen == len(questions):
        chosen = max(chosen - 1, 0)  # something must be left to train on
    candidates = np.flatnonzero(np.isin(rows.questions, questions[:chosen]))
    held = candidates[_smallest(rows.take(candidates), config.max_eval_rows)]
    heldout, rest = rows.take(held), rows.take(np.delete(np.arange(len(rows)), held))
    train, dropped = _without_prompts_of(heldout, rest)
    note = f"chosen by a hash of the prompt (eval_share {config.eval_share:g}, at most {config.max_eval_rows} rows)"
    return Split(train, heldout, note + dropped)


def hold_out_eval_data(rows: RenderedRows, eval_rows: RenderedRows, config: AnyConfig) -> Split:
    """Hold out at most `max_eval_rows` of the rows of eval_data, and train on no prompt of any of them."""
    heldout = eval_rows.take(_smallest(eval_rows, config.max_eval_rows))
    note = f"{len(heldout)} of {plural(len(eval_rows), 'row')} of eval_data"
    if len(heldout) < len(eval_rows):
        note += f", chosen by a hash of the prompt (max_eval_rows {config.max_eval_rows})"
    train, dropped = _without_prompts_of(eval_rows, rows)
    return Split(train, heldout, note + dropped)


def _places(questions: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Where questions fall between 0 and 1: evenly spread."""
    return questions.astype(np.float64) / 2.0**64


def _smallest(rows: RenderedRows, limit: int) -> NDArray[Any]:
    """Places of at most `limit` rows, those whose questions have the smallest hash, in their order."""
    return np.sort(np.lexsort((rows.key_numbers, _places(rows.questions)))[:limit])


def _without_prompts_of(heldout: RenderedRows, rows: RenderedRows) -> tuple[RenderedRows, str]:
    """The rows whose prompt no held-out row has, and a remark on the others."""
    known = np.isin(rows.prompts, heldout.prompts) | np.isin(rows.questions, heldout.questions)
    dropped = int(np.count_nonzero(known))
    note = f"; {plural(dropped, 'training row')} dropped because the prompt is held out" if dropped else ""
    return rows.take(~known), note
