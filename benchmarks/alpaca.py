"""RFT and IRFT on short AlpacaEval rows: do the learned rewards prefer GPT-4's answers to Alpaca-7B's?

    python benchmarks/alpaca.py MODEL TRAIN TEST FOLDER

TRAIN and TEST are preference rows: `chosen` are GPT-4's answers, which are the demonstrations; `rejected` are
Alpaca-7B's, which training never sees. Runs SFT, IRFT and RFT with T = 2 on the rows of at most 224 tokens, then scores
the test rows with both rewards. What is finished is not run again. Numbers go to benchmarks/results/alpaca.json.
"""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import demotune
from demotune.common.files import write_json
from demotune.config.methods import AnyConfig, IRFTConfig, RFTConfig, SFTConfig, as_dict
from demotune.result import read_result
from demotune.rewards.load import load_reward
from demotune.rewards.score import score_preferences
from demotune.runs.folder import RunFolder
from demotune.runs.heldout import check_pairs

RESULTS = Path(__file__).parent / "results" / "alpaca.json"


def configs(model: str, train: str, folder: Path) -> dict[str, AnyConfig]:
    """One pass of SFT, then IRFT and RFT from its model."""
    shared: dict[str, Any] = {"data": (train,), "max_length": 224, "max_bad_share": 1.0, "eval_share": 0.15}
    from_sft = shared | {"model": str(folder / "sft" / "model"), "stages": 2}
    return {
        "sft": SFTConfig(**shared, model=model, output=str(folder / "sft"), num_train_epochs=1, learning_rate=1e-4),
        "irft": IRFTConfig(**from_sft, output=str(folder / "irft"), epochs_per_stage=1, learning_rate=2.5e-5),
        "rft": RFTConfig(
            **from_sft,
            output=str(folder / "rft"),
            reward_eval_steps=4,
            learning_rate=1e-5,
            num_iterations=2,
            force=True,
            save_steps=1000,
        ),
    }


def score_rewards(run: Path, test: str) -> dict[str, Any]:
    """Accuracy of a run's reward on preference rows, and the number of each row."""
    scored = score_preferences(load_reward(str(run)), [test])
    lengths = [row.tokens for row in scored.rows]
    return {
        "test": asdict(scored.check),
        "longer_is_better": asdict(check_pairs([(float(one), float(other)) for one, other in lengths], lengths)),
        "refused": len(scored.refused),
        "rows": [{"scores": row.scores, "tokens": row.tokens} for row in scored.rows],
    }


def main() -> None:
    model, train, test, folder = sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4])
    found: dict[str, Any] = {}
    for name, config in configs(model, train, folder).items():
        run_folder = RunFolder(Path(config.output))
        result = read_result(run_folder) if run_folder.finished else demotune.run(config)
        kept = {field: value for field, value in as_dict(config).items() if field not in ("model", "data", "output")}
        found[name] = {"config": kept, "stages": result.stages}
    for name in ("irft", "rft"):
        found[name] |= score_rewards(folder / name, test)
        print(name, found[name]["test"])
    print("longer is better", found["rft"]["longer_is_better"])
    write_json(RESULTS, found)


if __name__ == "__main__":
    main()
