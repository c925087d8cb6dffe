"""Run and evaluation folders written by hand, for tests of the report: small, and every number is known."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from demotune.common.files import write_json, write_rows

START_LOGPS = (-10.0, -20.0, -30.0)
TOKENS = (10, 10, 20)
FIVE: dict[str, Any] = {"start": (-10.0, -20.0, -30.0, -10.0, -10.0), "tokens": (10, 10, 10, 10, 10)}
"""Enough rows for an interval."""


def write_run(
    root: Path,
    *,
    method: str = "irft",
    start: Sequence[float] | None = START_LOGPS,
    stages: Sequence[Sequence[float]] = ((-8.0, -19.0, -30.0),),
    tokens: Sequence[int] = TOKENS,
    texts: str = "text",
    finished: bool = True,
    config: Mapping[str, Any] | None = None,
    manifest: Mapping[str, Any] | None = None,
    refused: Sequence[Mapping[str, str]] = (),
) -> Path:
    """A run with one held-out row per number of `start`; `stages` has the rows' log-probabilities after each stage.

    `start=None` is a run that held no rows out.
    """
    settings = {"method": method, "model": "start", "data": ["rows.jsonl"], "output": str(root), "seed": 7}
    settings |= {"gate": "warn", "use_peft": False, **(config or {})}
    root.mkdir(parents=True)
    (root / "run.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    about = {
        "version": 1,
        "created": "2026-01-02T03:04:05+00:00",
        "command": "demotune irft",
        "versions": {"torch": "2.0"},
        "hardware": {"cpu": "one"},
        "config": settings,
        "model": "hash-of-start",
        "data": {"rows.jsonl": "hash-of-rows"},
        "rows": "hash-of-row-keys",
        "parameters": 1000,
        "rows_file": "hash-of-rows-file",
        "processes": 1,
    }
    write_json(root / "manifest.json", about | dict(manifest or {}))
    write_rows(root / "quarantine.jsonl", refused)
    before, logps = None, start
    for number, after in enumerate(stages):
        folder = root / "stages" / f"{number:02d}"
        check: dict[str, Any] = {}
        if start is not None and logps is not None:
            check = {"nll_per_token": -sum(after) / sum(tokens), "reward": REWARD, "gate": _gate(logps, after, number)}
            before = -sum(start) / sum(tokens)
            if number == 0:
                write_rows(folder / "start.jsonl.gz", _heldout(start, tokens, f"{texts} of start"))
            write_rows(folder / "heldout.jsonl.gz", _heldout(after, tokens, f"{texts} of stage {number}"))
            logps = after
        heldout = 0 if start is None else len(tokens)
        write_rows(folder / "samples.jsonl.gz", _samples(heldout, f"{texts} of start"))
        write_rows(folder / "reference_logps.jsonl.gz", _scores(heldout))
        write_rows(folder / "implicit.jsonl.gz", _implicit(heldout))
        write_rows(folder / "metrics.jsonl", TRAINING)
        write_json(folder / "check.json", check)
        write_json(folder / "state.json", _state())
    if finished:
        summary: dict[str, Any] = {"method": method, "start_nll_per_token": before, "reward_folder": None, "stages": []}
        summary |= {"run_folder": str(root), "model_folder": str(root / "model"), "estimate": None, "profile": None}
        write_json(root / "summary.json", summary | {"best_stage": len(stages) - 1})
    return root


def write_evaluation(root: Path, *, name: str = "irft", texts: str = "text", rows: int = 3) -> Path:
    """Two models on preference rows, a win rate by a function and one by a learned reward."""
    judged = {
        "measure": "win rate",
        "kind": "win rate",
        "model": name,
        "baseline": "start",
        "items": 200,
        "test": "sign test",
    }
    numbers = {"p": 0.002, "p_corrected": 0.004, "effect_size": 0.22, "smallest_difference": 0.1}
    write_json(
        root / "evaluation.json",
        {
            "data": {"kind": "preferences", "rows": rows, "left_out": {"over-long": 2}, "sources": [], "hashes": {}},
            "models": [{"name": name, "folder": "m", "hash": "abc", "role": "model", "runs": 1, "seconds": 3.0}],
            "judges": [
                {"name": "own reward", "kind": "reward", "note": None, "abstained": {}},
                {"name": "judge", "kind": "function", "note": "a rule", "abstained": {"no answer": 1}},
            ],
            "measures": [
                {"measure": "log-likelihood", "kind": "likelihood", "model": name, "judge": None,
                 "value": -1.5, "low": -1.7, "high": -1.3, "items": rows, "unit": "nats a token",
                 "higher_is_better": True},
                {"measure": "accuracy", "kind": "preference", "model": None, "judge": "judge",
                 "value": None, "low": None, "high": None, "items": 0, "unit": "share", "higher_is_better": True},
            ],
            "comparisons": [
                judged | numbers | {"judge": "own reward", "difference": 0.9, "low": 0.8, "high": 0.95},
                judged | numbers | {"judge": "judge", "difference": 0.61, "low": 0.54, "high": 0.68},
            ],
            "leaks": [
                {"model": name, "searched": True, "test": "the test rows", "test_rows": 9,
                 "train_rows": 20, "leaked": 2, "counts": {"near row": 2}, "not_searched": []},
                {"model": "start", "searched": False, "why": "no run is known behind it"},
            ],
            "warnings": ["the judge knows little"],
        },
    )  # fmt: skip
    of_model = {"demo_logp": -5.0, "demo_tokens": 4, "rejected_logp": -7.0, "rejected_tokens": 4, "sample_tokens": 6,
                "finished": True, "sample_logp": -3.0, "rewards": {"judge": 0.5}}  # fmt: skip
    write_rows(
        root / "rows.jsonl.gz",
        (
            {
                "key": f"key{row}",
                "source": f"test.jsonl:{row + 1}",
                "prompt": f"prompt {row}",
                "demonstration": f"demonstration {row}",
                "rejected": f"{texts} rejected {row}",
                "models": {name: of_model | {"sample": f"{texts} of {name} {row}"}},
                "rewards": {"judge": {"demonstration": 1.0, "rejected": 0.0}},
                "verdicts": {"judge": {f"{name} over start": 1}},
            }
            for row in range(rows)
        ),
    )
    result = {"task": "arc", "metric": "acc", "value": 0.5, "stderr": 0.1, "few_shots": 25, "items": 40}
    tasks = {"average": 0.5, "missing": ["mmlu"], "notes": [], "headline": [result], "results": [result]}
    write_json(root / "tasks.json", {"harness": "lm-eval 0.4", "options": {}, "models": {name: tasks}})
    return root


REWARD = {"prompts": 3, "pairs": 3, "equal": 0, "margin": 0.2, "accuracy": {"value": 0.7, "low": 0.4, "high": 0.9},
          "demo_logratio": 0.1, "sample_logratio": -0.1}  # fmt: skip
TRAINING = [
    {"step": 1, "loss": 0.69, "rewards/margins": 0.0, "logps/chosen": -20.0, "logps/rejected": -30.0},
    {"step": 2, "loss": 0.5, "rewards/margins": 0.25, "logps/chosen": -19.0, "logps/rejected": -35.0},
    {"train_runtime": 1.0, "step": 2},
]


def _state() -> dict[str, Any]:
    """Time 10 + 20 + 30 s of work, 5 s of measuring; 1000 parameters * (2 * 150 + 6 * 200) operations."""

    def phase(seconds: float, gib: float, forward: int, trained: int, **outputs: str) -> dict[str, Any]:
        tokens = {"forward_tokens": forward, "trained_tokens": trained}
        return {"seconds": seconds, "peak_memory_gib": gib, "outputs": outputs, "policy": "hash", **tokens}

    return {
        "sample": phase(10.0, 1.0, 100, 0),
        "score": phase(20.0, 1.5, 50, 0),
        "train": phase(30.0, 4.0, 0, 200, model="hash-of-result"),
        "check": phase(5.0, 4.0, 70, 0),
    }


def _heldout(logps: Sequence[float], tokens: Sequence[int], answer: str) -> list[dict[str, Any]]:
    return [
        {
            "key": f"key{row}",
            "prompt": f"prompt {row}",
            "demonstration": f"demonstration {row}",
            "demo_logp": logp,
            "demo_tokens": count,
            "sample": f"{answer} {row}",
            "sample_ids": list(range(row + 1)),
            "finished": row > 0,
        }
        for row, (logp, count) in enumerate(zip(logps, tokens, strict=True))
    ]


def _samples(heldout: int, answer: str) -> list[dict[str, Any]]:
    """Two training rows, then the held-out ones."""
    rows = [(f"trained{row}", False, row) for row in range(2)] + [(f"key{row}", True, row) for row in range(heldout)]
    return [
        {
            "key": key,
            "heldout": is_heldout,
            "finished": True,
            "prompt": f"prompt {row}",
            "demonstration": f"demonstration {row}",
            "sample": f"{answer} {row}",
            "prompt_ids": [1],
            "demo_ids": [1, 2],
            "demo_finished": True,
            "sample_ids": list(range(row + 1)),
        }
        for key, is_heldout, row in rows
    ]


def _scores(heldout: int) -> list[dict[str, Any]]:
    """Training rows, a row of an earlier stage (history), held-out rows whose gap is 5, 6, 7, ... nats."""
    old = [{"key": "trained", "demo_ref_logp": -1.0, "sample_ref_logp": -1.0} for _ in range(3)]
    new = [{"key": f"key{n}", "demo_ref_logp": -10.0, "sample_ref_logp": -15.0 - n} for n in range(heldout)]
    return [*old, *new]


def _implicit(heldout: int) -> list[dict[str, Any]]:
    """Margins of 0.5, 1.5, 2.5, ..."""
    return [{"key": f"key{row}", "demo_reward": 0.5 + row, "sample_reward": 0.0} for row in range(heldout)]


def _gate(before: Sequence[float], after: Sequence[float], stage: int) -> dict[str, Any]:
    wins = sum(new > old for old, new in zip(before, after, strict=True)) / len(after)
    return {
        "verdict": "no clear change",
        "warnings": [],
        "best": True,
        "compared_with": "start model" if stage == 0 else f"stage {stage - 1}",
        "prompts": len(after),
        "gain": {"value": 0.0, "low": -1.0, "high": 1.0},
        "wins": {"value": wins, "low": max(0.0, wins - 0.3), "high": min(1.0, wins + 0.3)},
        **dict.fromkeys(("mean_length", "mean_length_before"), 3.0),
        **dict.fromkeys(("finished_share", "finished_share_before", "distinct_2", "distinct_2_before"), 0.5),
        **dict.fromkeys(("repetition", "repetition_before"), 0.0),
    }
