"""RFT on the command line, in one process and in two."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.command import call
from helpers.rft_runs import FIELDS, config, make_world, read, state_of, weights

import demotune
from demotune import RunResult, run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("rft"))


@pytest.fixture(scope="module")
def plain(place: Path) -> RunResult:
    return run(config(place, "plain"))


NAMED = ("--model=org/model", "--data=org/rows", "--output=x")
"""Nothing is looked for before the fields are checked."""


def flags(place: Path, name: str, **fields: Any) -> list[str]:
    values = {"model": place / "start", "data": place / "rows.jsonl", "output": place / name, **FIELDS, **fields}
    named = (f"--{key.replace('_', '-')}={value}" for key, value in values.items() if key not in ("bf16", "force"))
    return ["--no-bf16", "--force", *named]


def test_the_command_line_runs_the_same(plain: RunResult, place: Path) -> None:
    code, shown = call("rft", *flags(place, "flags"))
    assert code == 0, shown
    said = " ".join(shown.split())
    check, policy = plain.stages[1]["check"], plain.stages[1]["phases"]["policy"]
    for words in (
        "rft: what was learned, on held-out demonstrations",
        f"on 9 held-out prompts samples earn {check['policy']['reward_before']:+.2f} before, "
        f"{check['policy']['reward_after']:+.2f} after (demonstrations {check['policy']['demo_reward']:+.2f})",
        f"KL to the start model {policy['last']['objective/kl']:.1f} nats a response",
        f"The reward is in {place / 'flags' / 'reward'}: demotune score --reward",
        f"The model is in {place / 'flags' / 'model'}",
    ):
        assert words in said
    for part in ("model", "reward"):
        expected = weights(plain.run_folder / part)
        found = weights(place / "flags" / part)
        assert all(torch.equal(value, found[name]) for name, value in expected.items())
    code, shown = call("resume", str(place / "flags"))
    assert code == 0
    assert "stage 2 is done already" in shown


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["rft", "--link", "nce"], "link is a field of irft, which rft does not use"),
        (["rft", "--temperature", "0.5"], "temperature is a field of spin and irft, which rft does not use"),
        (["rft", "--num-train-epochs", "1"], "num_train_epochs is a field of sft, which rft does not use"),
        (["rft", "--sft-weight=1"], "sft_weight is a field of irft, which rft does not use"),
        (["rft", "--num-generation", "2"], "rft has no field num_generation; did you mean num_generations?"),
        (["irft", "--reward-bound", "1"], "reward_bound is a field of rft, which irft does not use"),
        (["spin", "--prompts", "x.txt"], "prompts is a field of rft, which spin does not use"),
        (["rft", *NAMED, "--reward-link", "linear"], "a linear reward_link without reward_bound has no opti"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_a_flag_of_another_method_is_named(arguments: list[str], expected: str) -> None:
    code, shown = call(*arguments)
    assert code == 1
    assert f"error: {expected}" in shown
    assert "Traceback" not in shown


def test_two_processes_give_one_model_and_the_same_one_again(place: Path) -> None:
    """Two processes share drawing, scoring and steps; all six files of rollouts are those of a single process."""
    even = {"per_device_train_batch_size": 2, "num_generations": 4, "stages": 1, "reward_eval_steps": 1}
    # Adam blows rounding up to its rate; after two passes, an even number of micro-batches, no step is short of one.
    even |= {"optim": "sgd", "learning_rate": 0.1, "reward_learning_rate": 0.1, "reward_epochs": 2.0}
    script = place / "twice.py"
    lines = [f"app({['rft', *flags(place, name, **even)]!r}, standalone_mode=False)" for name in ("two", "twice")]
    script.write_text("\n".join(["from demotune.cli.main import app", *lines]), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29641"]
    source = str(Path(demotune.__file__).parents[1])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": source}
    done = subprocess.run(
        [*command, str(script)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    one = run(config(place, "one", **even, gradient_accumulation_steps=2)).run_folder
    names = ["samples.jsonl.gz", "rewards.jsonl.gz", "rollouts/0000.jsonl.gz", "rollouts/0001.jsonl.gz", "check.json"]
    for name in names:
        ours = (place / "two" / "stages" / "00" / name).read_bytes()
        assert ours == (place / "twice" / "stages" / "00" / name).read_bytes(), name
        if name == "samples.jsonl.gz":
            assert ours == (one / "stages" / "00" / name).read_bytes()
    for part in ("model", "reward"):
        two, again, expected = (weights(folder / part) for folder in (place / "two", place / "twice", one))
        for name, value in expected.items():
            assert torch.equal(two[name], again[name])
            torch.testing.assert_close(two[name], value, atol=2e-4, rtol=0)
    for number in (0, 1):
        rows, singles = (read(folder, 0, f"rollouts/{number:04d}.jsonl.gz") for folder in (place / "two", one))
        for row, single in zip(rows, singles, strict=True):
            assert (row["prompt_ids"], row["response"]) == (single["prompt_ids"], single["response"])
            assert row["advantages"] == pytest.approx(single["advantages"], abs=1e-3)
    assert state_of(place / "two", 0)["policy"]["steps"] == state_of(one, 0)["policy"]["steps"] == 2
