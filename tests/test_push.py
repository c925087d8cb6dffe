"""Pushing to a hub: a stand-in on loopback takes what the real client sends."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from helpers.command import call
from helpers.hub_server import Hub, hub
from helpers.tiny import save_tiny, write_rows
from helpers.tiny_runs import tiny_runs

from demotune.conclusion import conclude


@pytest.fixture
def standing_in() -> Iterator[Hub]:
    with hub() as server:
        yield server


def demotune(server: Hub, *arguments: object, token: str | None = "hf_x") -> tuple[int, str]:
    """Exit code and output of a command of its own: the hub's address is read when its client is imported."""
    signed_in = {} if token is None else {"HF_TOKEN": token}
    shown = subprocess.run(
        [sys.executable, "-m", "demotune", *map(str, arguments)],
        env=os.environ | {"HF_ENDPOINT": server.address, "COLUMNS": "400", "HF_HUB_OFFLINE": "0"} | signed_in,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return shown.returncode, shown.stdout


def test_push_uploads_model_card_report_and_reward(
    standing_in: Hub, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = shutil.copytree(tiny_runs(tmp_path_factory) / "rft", tmp_path / "rft")
    conclude(run)
    code, shown = demotune(standing_in, "push", run, "me/kettles", "--private")
    assert code == 0, shown
    assert f"pushed: {standing_in.address}/me/kettles" in shown
    pushed = standing_in.repositories["me/kettles"]
    assert standing_in.private["me/kettles"]
    for name, file in {
        "model.safetensors": run / "model" / "model.safetensors",
        "report.html": run / "report.html",
        "reward/model.safetensors": run / "reward" / "model.safetensors",
        "tokenizer.json": run / "model" / "tokenizer.json",
    }.items():
        assert pushed[name] == file.read_bytes(), name
    assert yaml.safe_load(pushed["README.md"].decode().split("---")[1])["tags"] == ["demotune", "rft"]
    assert "run.yaml" not in pushed  # it has paths of this machine


def test_a_run_pushes_itself_when_it_is_finished_and_stays_a_result_where_the_hub_refuses(
    standing_in: Hub, tmp_path: Path
) -> None:
    start, rows = save_tiny(tmp_path / "start"), write_rows(tmp_path / "rows.jsonl")
    given = ("sft", "--model", start, "--data", rows, "--max-length", 128, "--max-steps", 1)
    code, shown = demotune(standing_in, *given, "--output", tmp_path / "run", "--push-to-hub", "me/kettles")
    assert code == 0, shown
    pushed = standing_in.repositories["me/kettles"]
    assert pushed["model.safetensors"] == (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    standing_in.refuses = 403
    code, shown = demotune(standing_in, *given, "--output", tmp_path / "again", "--push-to-hub", "me/kettles")
    assert code == 0, shown
    assert "the hub did not take me/kettles: " in shown
    assert f"demotune push {tmp_path / 'again'} me/kettles" in shown
    assert (tmp_path / "again" / "summary.json").exists()
    standing_in.address = "http://127.0.0.1:9"  # where nobody listens
    code, shown = demotune(standing_in, "push", tmp_path / "again", "me/kettles")
    assert (code, "error: the hub did not take me/kettles: " in shown) == (1, True), shown


def test_what_is_bound_to_fail_is_refused_before_the_run(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    run = str(tiny_runs(tmp_path_factory) / "sft")
    code, shown = call("push", run, "me/kettles")
    assert (code, "you are not signed in to the hub" in shown, "hf auth login" in shown) == (1, True, True)
    code, shown = call("push", run, "me/kettles/more")
    assert (code, "is no name of a hub repository" in shown) == (1, True)
    start, rows = save_tiny(tmp_path / "start"), write_rows(tmp_path / "rows.jsonl")
    code, shown = call(
        "sft", "--model", start, "--data", rows, "--output", str(tmp_path / "run"), "--push-to-hub", "me/kettles"
    )
    assert (code, "you are not signed in to the hub" in shown) == (1, True)
    assert not (tmp_path / "run").exists()
    code, shown = call("push", str(tmp_path / "nowhere"), "me/kettles")
    assert (code, "nowhere" in shown) == (1, True)


@pytest.mark.parametrize("folder", ["gone", "empty", "file"])
def test_what_holds_no_run_is_not_pushed(tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    code, shown = call("push", str(tmp_path / folder), "me/model")
    assert code == 1
    assert f"{folder} holds no run; name the folder that a run wrote" in " ".join(shown.split())
