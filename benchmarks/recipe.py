"""Which recipe does good? Settings of SFT and IRFT on the shipped demonstrations, judged on validation rows.

    python benchmarks/recipe.py MODEL WORK_FOLDER [--seeds 1]

The 132 shipped training rows are cut into 100 for training and 32 for validation; the 52 held-out rows, on which the
quickstart reports, are never read. SFT comes first; IRFT then starts from one of the SFT models. One line per run is
appended to WORK_FOLDER/recipe.jsonl (runs that are there already are not repeated).
"""

import argparse
import json
from importlib import resources
from pathlib import Path
from typing import Any

from demotune import IRFTConfig, SFTConfig, run
from demotune.result import RunResult

TRAINING_ROWS = 100

SFT_GRID: list[dict[str, Any]] = [
    {"learning_rate": rate, "num_train_epochs": epochs}
    for rate, epochs in ((2e-4, 1), (5e-5, 2), (5e-5, 3), (1e-4, 2), (1e-4, 3), (2e-4, 2), (2e-4, 3))
]
# From which SFT model, and how. An SFT model that knows its training rows by heart leaves IRFT nothing but samples to
# push down, so the least trained one is tried beside the one with the best validation NLL (2e-4, 2 epochs).
EARLY = {"learning_rate": 2e-4, "num_train_epochs": 1}
BEST = {"learning_rate": 2e-4, "num_train_epochs": 2}
IRFT_GRID: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (BEST, {"learning_rate": 5e-6, "epochs_per_stage": 1.0}),
    (BEST, {"learning_rate": 2e-5, "epochs_per_stage": 1.0}),
    (BEST, {"learning_rate": 5e-5, "epochs_per_stage": 2.0}),
    (EARLY, {"learning_rate": 5e-5, "epochs_per_stage": 2.0}),
    (EARLY, {"learning_rate": 5e-5, "epochs_per_stage": 2.0, "sft_weight": 1.0}),
    (EARLY, {"learning_rate": 5e-5, "link": "nce", "epochs_per_stage": 2.0}),
    (EARLY, {"learning_rate": 2e-5, "link": "nce", "epochs_per_stage": 2.0}),
    (EARLY, {"learning_rate": 2e-5, "epochs_per_stage": 2.0}),
    (EARLY, {"learning_rate": 5e-5, "epochs_per_stage": 1.0}),
    (EARLY, {"learning_rate": 5e-5, "epochs_per_stage": 1.0, "history": 1.0}),
    (EARLY, {"learning_rate": 5e-5, "epochs_per_stage": 1.0, "link": "linear"}),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("work", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    train, validation = split_rows(options.work)
    shared = {"data": (train,), "eval_data": (validation,)}
    for seed in range(options.seeds):
        sft = {
            json.dumps(setting): measure(
                options.work, SFTConfig, {"model": options.model, "seed": seed, **shared, **setting}, setting
            )
            for setting in SFT_GRID
        }
        for origin, setting in IRFT_GRID:
            start = str(options.work / sft[json.dumps(origin)]["name"] / "model")
            name = {"sft_epochs": origin["num_train_epochs"], **setting}
            measure(options.work, IRFTConfig, {"model": start, "seed": seed, "stages": 2, **shared, **setting}, name)


def split_rows(work: Path) -> tuple[str, str]:
    """Every fourth shipped row until 32 are validation, so that both parts hold the same kinds of rows."""
    lines = (resources.files("demotune.cli") / "shipped" / "support_train.jsonl").read_text().splitlines()
    held = set(range(0, len(lines), 4))
    held = set(sorted(held)[: len(lines) - TRAINING_ROWS])
    work.mkdir(parents=True, exist_ok=True)
    names = work / "train.jsonl", work / "validation.jsonl"
    names[0].write_text("".join(line + "\n" for row, line in enumerate(lines) if row not in held))
    names[1].write_text("".join(line + "\n" for row, line in enumerate(lines) if row in held))
    return str(names[0]), str(names[1])


def measure(work: Path, kind: type, fields: dict[str, Any], setting: dict[str, Any]) -> dict[str, Any]:
    """Run one setting unless its row is there; return the row."""
    table = work / "recipe.jsonl"
    name = "-".join([kind.method, f"seed{fields['seed']}", *(f"{key}={value}" for key, value in setting.items())])
    rows = [json.loads(line) for line in table.read_text().splitlines()] if table.exists() else []
    for row in rows:
        if row["name"] == name:
            return row
    row = {"name": name, "setting": setting, "seed": fields["seed"]} | account(
        run(kind(output=str(work / name), **fields))
    )
    with table.open("a") as opened:
        opened.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)
    return row


def account(result: RunResult) -> dict[str, Any]:
    last = result.stages[-1]
    reward = last["check"].get("reward_since_start") or last["check"].get("reward") or {}
    train = last["phases"]["train"]["end"]
    return {
        "nll_before": result.start_nll_per_token,
        "nll": last["check"]["nll_per_token"],
        "accuracy": reward.get("accuracy"),
        "demo_logratio": reward.get("demo_logratio"),
        "sample_logratio": reward.get("sample_logratio"),
        "training_margin": train.get("rewards/margins"),
    }


if __name__ == "__main__":
    main()
