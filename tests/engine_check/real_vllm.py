"""Runs of IRFT on SmolLM2-135M whose responses the real vLLM draws: `make test-vllm`, which installs it (3.4 GB).

Not part of `make test`: its name is none that pytest looks for.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.rft_runs import read, state_of

from demotune import IRFTConfig, run
from demotune.cli.quickstart import fetch_smollm2
from demotune.config.drawing import GenerationOptions
from demotune.data import as_prompt
from demotune.models.policy import load_policy, resolve_model
from demotune.rewards.answers import answer
from demotune.sampling.engine.process import ServerSettings, StartedServer
from demotune.sampling.engine.weights import publish_weights

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("VLLM_PYTHON", str(ROOT / ".venv-vllm" / "bin" / "python"))
SHIPPED = ROOT / "src" / "demotune" / "cli" / "shipped"


@pytest.fixture(scope="module")
def start() -> Path:
    return resolve_model(str(fetch_smollm2()))


@pytest.fixture(scope="module")
def address(start: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that is there before the run, and after it."""
    settings = ServerSettings(tokenizer=start, bf16=False, longest=256, rows=8, lora_rank=None, on_gpu=False)
    folder = tmp_path_factory.mktemp("server")
    policy = load_policy(start, dtype="float32", attn_implementation=None, device=torch.device("cpu"))
    weights = publish_weights(policy, folder)  # with a head of its own
    server = StartedServer(PYTHON, settings, folder / "vllm.log")
    try:
        yield server.start(weights.folder)
    finally:
        server.close()


def irft(start: Path, folder: Path, **fields: Any) -> IRFTConfig:
    for name, rows in (("support_train", 6), ("support_heldout", 2)):
        lines = sorted((SHIPPED / f"{name}.jsonl").read_text(encoding="utf-8").splitlines(), key=len)[:rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return IRFTConfig(
        model=str(start),
        data=(str(folder / "support_train.jsonl"),), eval_data=(str(folder / "support_heldout.jsonl"),),
        output=str(folder / "run"), stages=2, samples_per_prompt=1, max_new_tokens=16, max_length=256, bf16=False,
        steps_per_stage=2, per_device_train_batch_size=3, learning_rate=1e-4, warmup_steps=0, sample_batch_size=8,
        **fields,
    )  # fmt: skip


def check(folder: Path, sampler: str, shown: str) -> None:
    """Both stages were drawn by the engine, the second from weights that the first one trained."""
    for stage in (0, 1):
        assert state_of(folder, stage)["sample"]["sampler"] == sampler
        samples = read(folder, stage, "samples.jsonl.gz")
        assert samples
        assert all(0 < len(row["sample_ids"]) <= 16 for row in samples)
    assert "nats a token of ours" in shown
    assert json.loads((folder / "summary.json").read_text())


def test_a_run_through_a_server_that_is_there(start, address, tmp_path, capsys):
    run(irft(start, tmp_path, sampler=address))
    check(tmp_path / "run", address, capsys.readouterr().out)


def test_greedy_answers_are_those_of_this_process(start, address):
    prompts = [as_prompt(text) for text in ("What is the capital of France?", "My kettle leaks. What now?")]
    greedy = {"max_new_tokens": 24, "temperature": 0.0}
    there = answer(str(start), prompts, GenerationOptions(**greedy, sampler=address))
    assert there == answer(str(start), prompts, GenerationOptions(**greedy))


def test_a_run_that_starts_its_server(start, tmp_path, capsys):
    run(irft(start, tmp_path, sampler="vllm", vllm_python=PYTHON))
    shown = capsys.readouterr().out
    check(tmp_path / "run", "vllm", shown)
    assert "vllm is ready" in shown
