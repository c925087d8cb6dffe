"""Quick evaluations, and what stands in their records."""

import json
from pathlib import Path
from typing import Any

from demotune.common.files import read_rows
from demotune.config.evaluation import EvaluationConfig
from demotune.evaluation.evaluate import Evaluation, evaluate

QUICK: dict[str, Any] = {"max_new_tokens": 6, "bf16": False, "batch_size": 4, "sample_batch_size": 4}


def evaluation(output: Path, **fields: Any) -> Evaluation:
    return evaluate(EvaluationConfig(output=str(output), **{**QUICK, **fields}))


def measure_of(found: Evaluation, name: str, model: str | None, judge: str | None = None) -> dict[str, Any]:
    wanted = {"measure": name, "model": model, "judge": judge}
    (row,) = (row for row in found.record["measures"] if wanted.items() <= row.items())
    return row


def rows_of(found: Evaluation) -> list[dict[str, Any]]:
    return read_rows(found.folder / "rows.jsonl.gz")


def strict(file: Path) -> Any:
    """JSON as it must be: no nan, no infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in {file}")

    return json.loads(file.read_text(), parse_constant=refuse)
