"""Two processes that share the weights of what they train (FSDP2) end where one process ends, and resume alike."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.command import call
from helpers.engine_server import TinyEngine
from helpers.killing import Killed
from helpers.tiny import save_tiny, write_rows
from helpers.two_processes import RFT, SMALL, assert_ends_alike, at_checkpoint, launch_sharded, leave
from safetensors.torch import load_file
from torch import Tensor

import demotune
from demotune.common.files import read_rows
from demotune.config.methods import CONFIGS
from demotune.runs.file_names import CARRIED, METRICS
from demotune.training import early_checks

SAMPLED: dict[str, Any] = {"max_new_tokens": 8, "samples_per_prompt": 1}
RUNS: dict[str, dict[str, Any]] = {
    # Micro-batches are cut into passes of one row: the processes have different numbers of them.
    "sft": {"method": "sft", "max_steps": 4, "tokens_per_microbatch": 45},
    "stopped": {"method": "sft", "use_peft": True, "max_steps": 4, "learning_rate": 1e-2, "stop_loss": 5.58},
    "spin": {"method": "spin", "steps_per_stage": 2, "activation_checkpointing": True},
    "irft": {"method": "irft", "stages": 2, "steps_per_stage": 3, "optimizer_across_stages": "carry", "save_steps": 1},
    "bfloat16": {"method": "irft", "stages": 1, "steps_per_stage": 3, "bf16": True},
    "rft": {**RFT, "reward_eval_steps": 2},
    "lora": {**RFT, "reward_eval_steps": 2, "use_peft": True, "learning_rate": 1e-2, "save_steps": 1},
    "engine": {**RFT, "reward_eval_steps": 2},
}
DEATHS = {"irft": ("01/checkpoints", 2), "lora": ("00/policy-checkpoints", 2)}
"""Which runs are killed, and at which checkpoint."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Start model, rows and a server that draws; all runs of two processes, and those that went on after a kill.

    The latter as killed-NAME, copies of them before that as kept-NAME; and irft as begun-by-one, begun by one process,
    which two went on with.
    """
    folder = tmp_path_factory.mktemp("sharded")
    save_tiny(folder / "start")
    write_rows(folder / "rows.jsonl")
    server = TinyEngine(folder / "start")
    (folder / "address").write_text(server.url)
    code, shown = launch_sharded([fields(folder, name, name) for name in RUNS], folder)
    assert code == 0, shown[-3000:]
    for name, (checkpoints, step) in DEATHS.items():
        task = {**fields(folder, name, f"killed-{name}"), "die_at": [checkpoints, step]}
        assert "SIGKILL" in launch_sharded([task], folder)[1]
        shutil.copytree(folder / f"killed-{name}", folder / f"kept-{name}")
    with pytest.raises(Killed):
        begin_here(fields(folder, "irft", "begun-by-one"), at_checkpoint(*DEATHS["irft"], leave))
    newest = folder / "killed-irft" / "stages" / "01" / "checkpoints" / "checkpoint-2"
    min(newest.rglob("*.distcp")).unlink()  # one process's shard: what the others wrote is no checkpoint
    going_on = [*(f"killed-{name}" for name in DEATHS), "begun-by-one"]
    code, shown = launch_sharded([{"resume": str(folder / name)} for name in going_on], folder)
    assert code == 0, shown[-3000:]
    assert "is damaged" in shown
    yield folder
    server.close()


def fields(folder: Path, name: str, output: str) -> dict[str, Any]:
    """The config of one of RUNS."""
    own = RUNS[name] if RUNS[name]["method"] == "sft" else SAMPLED | RUNS[name]
    where = {"model": str(folder / "start"), "data": [str(folder / "rows.jsonl")], "output": str(folder / output)}
    drawn_by = {"sampler": (folder / "address").read_text()} if name == "engine" else {}
    return {**SMALL, **where, **own, **drawn_by}


def one_process(place: Path, name: str, output: str) -> Path:
    """The folder of the same run in this process, which takes both processes' micro-batches of a step itself."""
    begin_here(fields(place, name, output) | {"gradient_accumulation_steps": 2})
    return place / output


def begin_here(config: dict[str, Any], *callbacks: Any) -> None:
    demotune.run(CONFIGS[config.pop("method")](**config), callbacks=callbacks)


def weights(run: Path, name: str = "model") -> dict[str, Tensor]:
    return load_file(next((run / name).glob("*.safetensors")))


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_with_half_of_the_weights_each_end_where_one_process_ends(name: str, place: Path) -> None:
    one, two = one_process(place, name, f"one-{name}"), place / name
    assert json.loads((two / "manifest.json").read_text())["processes"] == 2
    folders = ("model", "reward") if RUNS[name]["method"] == "rft" else ("model",)
    for folder in folders:
        found, expected = weights(two, folder), weights(one, folder)
        assert found.keys() == expected.keys()
        for weight, values in expected.items():
            torch.testing.assert_close(found[weight], values, atol=1e-4, rtol=0)
        for file in ("config.json", "adapter_config.json"):
            if (one / folder / file).exists():
                ours, theirs = (json.loads((run / folder / file).read_text()) for run in (two, one))
                assert ours | {"use_cache": None} == theirs | {"use_cache": None}  # which a trainer switches off
    losses = [[row["loss"] for row in read_rows(run / METRICS) if "loss" in row] for run in (two, one)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    if name == "stopped":
        assert max(row["step"] for row in read_rows(two / METRICS) if "step" in row) == 3
    if RUNS[name]["method"] == "rft":
        rollouts = [sorted((run / "stages/00/rollouts").glob("*.gz")) for run in (two, one)]
        drawn = [[row["response"] for file in files for row in read_rows(file)] for files in rollouts]
        assert drawn[0] == drawn[1]


@pytest.mark.parametrize("name", DEATHS)
def test_killed_and_gone_on_with_equals_the_uninterrupted_run(name: str, place: Path) -> None:
    killed, whole = weights(place / f"killed-{name}"), weights(place / name)
    assert max(float((killed[weight] - values).abs().max()) for weight, values in whole.items()) == 0.0
    numbers = [
        [(row.get("loss"), row.get("grad_norm")) for row in read_rows(run / METRICS)]
        for run in (place / f"killed-{name}", place / name)
    ]
    assert numbers[0] == numbers[1]


@pytest.mark.parametrize("name", DEATHS)
def test_one_process_goes_on_from_the_shards_of_two(name: str, place: Path) -> None:
    demotune.resume(place / f"kept-{name}")
    assert_ends_alike(place / f"kept-{name}", place / name)


def test_two_processes_share_the_weights_that_one_has_left(place: Path) -> None:
    """A step of one micro-batch: each process takes a half of it, with a half of the weights."""
    begin_here(fields(place, "irft", "one-alone"))
    assert_ends_alike(place / "begun-by-one", place / "one-alone")


def test_an_optimizer_is_carried_whole(place: Path) -> None:
    """By the names of weights; one process keeps it by their numbers, in the same order."""
    one_process(place, "irft", "one-carried")
    ours, theirs = (
        torch.load(place / run / "stages" / "00" / CARRIED, weights_only=True)["optimizer"]
        for run in ("irft", "one-carried")
    )
    names = [name for group in ours["param_groups"] for name in group["params"]]
    numbers = [number for group in theirs["param_groups"] for number in group["params"]]
    for name, number in zip(names, numbers, strict=True):
        for moment in ("exp_avg", "exp_avg_sq"):
            found, expected = ours["state"][name][moment], theirs["state"][number][moment]
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-3)


def test_what_cannot_be_sharded_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = save_tiny(tmp_path / "start"), write_rows(tmp_path / "rows.jsonl")
    flags = ["sft", "--model", model, "--data", rows, "--output", str(tmp_path / "run")]
    monkeypatch.setattr(early_checks, "shards_models", lambda: True)
    monkeypatch.setenv("FSDP_ACTIVATION_CHECKPOINTING", "true")
    code, shown = call(*flags, columns=500)
    assert (code, "give --activation-checkpointing" in shown) == (1, True)
    monkeypatch.setattr(early_checks, "refuse_missing_kernels", lambda asked, device: None)
    code, shown = call(*flags, "--use-peft", "--load-in-4bit", columns=500)
    assert (code, "weights of 4 bits cannot be sharded" in shown) == (1, True)
