"""Whole runs whose responses an engine draws: the same as drawn in this process, killed, resumed, moved, refused."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.engine_server import TinyEngine, drop, write_vllm
from helpers.killing import Killed, after_append
from helpers.rft_runs import config as rft_config
from helpers.rft_runs import make_world, read, weights
from helpers.tiny import save_tiny, write_rows

import demotune
from demotune import IRFTConfig, RFTConfig, resume, run
from demotune.common.errors import DemotuneError
from demotune.common.journals import read_journal
from demotune.config.config_files import save_config
from demotune.config.drawing import GenerationOptions
from demotune.data import as_prompt
from demotune.rewards.answers import answer
from demotune.runs.file_names import PARTIAL
from demotune.runs.folder import RunFolder
from demotune.runs.manifest import read_manifest

PACKAGES = Path(demotune.__file__).parents[1]
FIELDS: dict[str, Any] = {
    "stages": 2,
    "max_new_tokens": 6,
    "samples_per_prompt": 1,
    "max_length": 64,
    "bf16": False,
    "learning_rate": 1e-2,
    "epochs_per_stage": 1.0,
    "sample_batch_size": 4,
    "eval_share": 0.25,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A start model, rows, and a run in this process to compare with."""
    folder = tmp_path_factory.mktemp("runs")
    save_tiny(folder / "start")
    write_rows(folder / "rows.jsonl", 10)
    run(irft(folder, folder / "in-process"))
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demotune.sampling.engine.weights.TOKENS", 3)
    monkeypatch.setattr("demotune.common.http_client.FIRST_PAUSE", 0.01)


@pytest.fixture
def serve(place: Path) -> Iterator[Callable[..., TinyEngine]]:
    servers: list[TinyEngine] = []

    def start(folder: Path = place / "start", **modes: Any) -> TinyEngine:
        servers.append(TinyEngine(folder, **modes))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def irft(place: Path, output: Path, **fields: Any) -> IRFTConfig:
    where = {"model": str(place / "start"), "data": (str(place / "rows.jsonl"),), "output": str(output)}
    return IRFTConfig(**{**where, **FIELDS, **fields})


def assert_same_run(one: Path, other: Path, stages: int = 2) -> None:
    for stage in range(stages):
        for name in ("samples.jsonl.gz", "reference_logps.jsonl.gz", "heldout.jsonl.gz"):
            assert read(one, stage, name) == read(other, stage, name)
    found, expected = weights(one / "model"), weights(other / "model")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_irft_is_the_run_in_this_process_to_the_bit(place, serve, tmp_path, capsys):
    server = serve()
    run(irft(place, tmp_path / "run", sampler=server.url))
    assert_same_run(tmp_path / "run", place / "in-process")
    assert len(set(server.given)) == 3  # the start model, and the policy of each stage
    assert len(server.asked) == len(set(server.asked))
    assert not (tmp_path / "run" / "engine").exists()
    folder = RunFolder(tmp_path / "run")
    assert folder.stage_state(1)["sample"]["sampler"] == server.url
    assert read_manifest(folder.manifest).config["sampler"] == server.url
    assert capsys.readouterr().out.count(f"{server.url} draws") == 1


def test_killed_while_drawing_and_resumed_with_another_server_it_is_the_same_run(place, serve, tmp_path, monkeypatch):
    first = serve()
    with monkeypatch.context() as patch:

        def die(rows: list[Mapping[str, Any]]) -> None:
            raise Killed

        patch.setattr("demotune.common.journals.ROWS_KEPT_TOGETHER", 2)
        after_append(die, patch)
        with pytest.raises(Killed):
            run(irft(place, tmp_path / "run", sampler=first.url))
    first.close()
    second = serve()
    resume(tmp_path / "run", sampler=second.url)
    assert_same_run(tmp_path / "run", place / "in-process")
    assert RunFolder(tmp_path / "run").read_config().sampler == second.url
    assert len(second.asked) == len(set(second.asked))
    kept = 1  # at least what was in the journal when it died
    assert len([one for one in second.asked if one in first.asked]) <= len(first.asked) - kept


def test_a_server_that_is_gone_ends_the_run_and_its_return_goes_on(place, serve, tmp_path):
    server = serve()
    server.fault = lambda *_: drop() if len(server.asked) >= 3 else None
    with pytest.raises(DemotuneError, match="no server that draws gives an answer any more"):
        run(irft(place, tmp_path / "run", sampler=server.url))
    assert len(server.asked) == 3
    kept = {record["row"] for file in (tmp_path / "run").rglob(f"sample-*{PARTIAL}") for record in read_journal(file)}
    server.begin_anew()
    server.fault = lambda *_: None
    resume(tmp_path / "run")
    assert_same_run(tmp_path / "run", place / "in-process")
    first, again = server.asked[0][0], server.asked[3:]
    assert kept.isdisjoint(stream for seed, stream in again if seed == first)  # what was kept is not drawn twice
    assert len(again) == len(set(again))


def test_a_server_that_the_run_starts_draws_and_ends_with_it(place, tmp_path, capsys):
    python = write_vllm(tmp_path / "vllm")
    run(irft(place, tmp_path / "run", sampler="vllm", vllm_python=python))
    assert_same_run(tmp_path / "run", place / "in-process")
    address = re.search(r"starting vllm at http://127.0.0.1:(\d+)", capsys.readouterr().out)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(address[1])), timeout=5)
    assert (tmp_path / "run" / "vllm.log").exists()


DYING_VLLM = """
import os, signal, sys
from pathlib import Path
from helpers.engine_server import TinyEngine, once_at

def die(engine, body):
    mark = Path({mark!r})
    if mark.exists():
        mark.unlink()
        os.kill(os.getpid(), signal.SIGKILL)

given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
engine = TinyEngine(given["--model"], port=int(given["--port"]))
engine.fault = once_at(7, die)
engine.serve(given["--served-model-name"])
"""
"""It kills itself instead of giving its seventh response, while the mark is there: as where memory lacks."""


def test_a_started_server_that_is_killed_ends_the_run_and_resume_starts_another(place, tmp_path):
    mark = tmp_path / "mark"
    mark.touch()
    python = write_vllm(tmp_path / "vllm", DYING_VLLM.format(mark=str(mark)))
    with pytest.raises(DemotuneError, match=r"vllm server that was started here ended by itself \(exit code -9\)"):
        run(irft(place, tmp_path / "run", sampler="vllm", vllm_python=python))
    kept = [record for file in (tmp_path / "run").rglob(f"sample-*{PARTIAL}") for record in read_journal(file)]
    assert 0 < len(kept) < 7  # those under way with it are lost too
    assert not mark.exists()
    resume(tmp_path / "run")
    assert_same_run(tmp_path / "run", place / "in-process")


def test_two_processes_share_an_engine(place, serve, tmp_path):
    """The main process gives the weights, both draw: together what one process draws."""
    server = serve()
    run_config = irft(
        place, tmp_path / "run", sampler=server.url, stages=1, slices="all", per_device_train_batch_size=2
    )
    save_config(run_config, tmp_path / "config.yaml")
    launched = ["torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29613", "-m", "demotune", "irft"]
    command = [sys.executable, "-m", *launched, "--config", str(tmp_path / "config.yaml")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(PACKAGES)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    run(irft(place, tmp_path / "one", stages=1, slices="all", per_device_train_batch_size=2))
    for name in ("samples.jsonl.gz", "reference_logps.jsonl.gz"):
        assert read(tmp_path / "run", 0, name) == read(tmp_path / "one", 0, name)
    assert len(server.given) == 2
    assert len(server.asked) == len(set(server.asked))


def test_a_run_whose_engine_cannot_be_started_does_not_begin(place, tmp_path):
    with pytest.raises(DemotuneError, match="has no vllm; install it in an environment of its own"):
        run(irft(place, tmp_path / "run", sampler="vllm"))
    assert not RunFolder(tmp_path / "run").holds_run


def test_an_engine_may_not_take_over_from_this_process(place, serve, tmp_path):
    run(irft(place, tmp_path / "run", stages=1))
    with pytest.raises(DemotuneError, match="config sampler: 'in_process' when it began, 'an engine' now"):
        resume(tmp_path / "run", sampler=serve().url)


def test_the_policy_of_each_rft_batch_reaches_the_engine(serve, tmp_path):
    place = make_world(tmp_path)
    server = serve(place / "start")
    fields = {"stages": 1, "sample_batch_size": 4}
    run(rft_config(place, "here", **fields))
    run(rft_config(place, "there", sampler=server.url, **fields))
    for name in ("samples.jsonl.gz", "rollouts/0000.jsonl.gz"):
        here, there = (responses(read(place / run, 0, name)) for run in ("here", "there"))
        assert here == there
    names = sorted(file.name for file in (place / "there/stages/00/rollouts").glob("*.jsonl.gz"))
    assert len(names) == 2
    assert len(set(server.given)) == 3  # start model, the second batch's policy, the last one
    assert len(server.asked) == len(set(server.asked))


def responses(rows: list[dict[str, Any]]) -> list[Any]:
    return [row["response"]["ids"] if "response" in row else row["sample_ids"] for row in rows]


def test_an_adapter_that_is_trained_goes_to_the_engine_by_name(place, serve, tmp_path):
    server = serve(dev_mode=False)
    lora = {"use_peft": True, "lora_r": 4, "stages": 1}
    run(irft(place, tmp_path / "here", **lora))
    run(irft(place, tmp_path / "there", sampler=server.url, **lora))
    assert_same_run(tmp_path / "there", tmp_path / "here", stages=1)
    assert len(server.given) == 2


def test_answers_outside_of_a_run_come_from_the_engine(place, serve):
    options = GenerationOptions(max_new_tokens=5, batch_size=4)
    prompts = [as_prompt(text) for text in ("say 1", "say 2 please")]
    here = answer(str(place / "start"), prompts, options)
    server = serve()
    assert answer(str(place / "start"), prompts, replace(options, sampler=server.url)) == here
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sampler": "vlm"}, r"sampler must be in_process, vllm, or addresses .* got 'vlm'"),
        ({"sampler": "http://me:secret@h"}, r"without user, password .* got 'http://\.\.\.@h'"),
        ({"sampler": "http://h:1,http://h:1/v1/"}, "names a server twice"),
        ({"vllm_python": "python"}, "vllm_python is given and sampler is in_process; add --sampler vllm"),
    ],
)
def test_settings_that_are_refused(fields, message):
    with pytest.raises(DemotuneError, match=message):
        RFTConfig(output="x", **fields)
    with pytest.raises(DemotuneError, match=message):
        GenerationOptions(**fields)
