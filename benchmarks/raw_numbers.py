"""Keep the numbers of finished runs, comparisons and evaluations without their texts and without this machine's paths.

    python benchmarks/raw_numbers.py TARGET FOLDER [FOLDER ...]

Of each FOLDER, what is there goes to TARGET/NAME: comparison, evaluation, manifest, audit of shortcuts and artefacts
of `demotune paper`, without samples and with paths cut to their last part; rows.jsonl.gz with the key and the numbers
of each row; and what `demotune compare --data` measured, as logps.jsonl.gz: a line per test pair in the order of the
file, per model the log-probability and tokens of both sides.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from demotune.common.files import read_json, read_rows, write_json, write_rows

PATH = re.compile(r"(?<![\w./])/(?:[^\s\"':/,]+/)*([^\s\"':/,]+)")
RECORDS = (
    "comparison.json", "evaluation.json", "manifest.json", "shortcuts.json", "reward_models.json",
    "figure1.json", "figure2.json", "table2.json", "table5.json",
)  # fmt: skip
SAMPLES = "samples"
"""The field of an artefact that holds texts."""
LOGPS = "-logps-"


def last_parts(value: Any) -> Any:
    """Every absolute path in a JSON value, keys of objects included, cut to its last part."""
    if isinstance(value, dict):
        return {last_parts(name): last_parts(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [last_parts(inner) for inner in value]
    return PATH.sub(r"\1", value) if isinstance(value, str) else value


def numbers(row: dict[str, Any]) -> dict[str, Any]:
    """A row of rows.jsonl.gz without its texts; `key` is a hash of them."""
    return {
        name: numbers(value) if isinstance(value, dict) else value
        for name, value in row.items()
        if name == "key" or not isinstance(value, str)
    }


def logps(parts: Path) -> list[dict[str, Any]]:
    """One object per test pair: model -> [logp of chosen, its tokens, logp of rejected, its tokens]."""
    models = {file.name.split(LOGPS)[0]: read_json(file)["rows"] for file in sorted(parts.glob(f"*{LOGPS}*.json"))}
    return [dict(zip(models, row, strict=True)) for row in zip(*models.values(), strict=True)]


def keep(folder: Path, target: Path) -> None:
    """Write what `folder` has to `target`."""
    target.mkdir(parents=True, exist_ok=True)
    for name in RECORDS:
        if (folder / name).exists():
            known = json.loads((folder / name).read_text(encoding="utf-8"))
            if isinstance(known, dict):
                known.pop(SAMPLES, None)
            write_json(target / name, last_parts(known))
    if (folder / "rows.jsonl.gz").exists() and (folder / "evaluation.json").exists():
        write_rows(target / "rows.jsonl.gz", [numbers(row) for row in read_rows(folder / "rows.jsonl.gz")])
    if (folder / "comparison.json").exists() and (rows := logps(folder / "parts")):
        write_rows(target / "logps.jsonl.gz", rows)
    print(target, json.dumps(sorted(file.name for file in target.iterdir())))


def main() -> None:
    target, *folders = map(Path, sys.argv[1:])
    for folder in folders:
        keep(folder, target / folder.name)


if __name__ == "__main__":
    main()
