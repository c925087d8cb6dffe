"""Formats and kernels of other packages: what is loaded with them, and the refusals where they cannot run."""

import importlib.metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.command import call
from helpers.processes import pretend_processes
from helpers.tiny import save_tiny, write_rows

from demotune.common.errors import DemotuneError
from demotune.models import kernels
from demotune.models.kernels import PACKAGES, placement, refuse_missing_kernels

CPU, GPU = torch.device("cpu"), torch.device("cuda:1")


@pytest.mark.parametrize("name", PACKAGES)
def test_what_is_not_installed_is_named_with_how_to_install_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "find_spec", lambda module: None)
    with pytest.raises(DemotuneError, match=f"{name} needs .* not installed; pip install .*, or leave {name} out"):
        refuse_missing_kernels([name], GPU)


def test_without_a_gpu_they_are_refused_and_on_one_they_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "find_spec", str)
    with pytest.raises(DemotuneError, match="load_in_4bit needs a CUDA GPU, and this run computes on cpu"):
        refuse_missing_kernels(["load_in_4bit"], CPU)
    refuse_missing_kernels([*PACKAGES], GPU)


@pytest.mark.parametrize(
    "flags",
    [["--use-peft", "--load-in-4bit"], ["--use-liger-kernel"], ["--attn-implementation", "flash_attention_2"]],
    ids=" ".join,
)
def test_a_run_is_refused_before_anything_is_read(flags: list[str], tmp_path: Path) -> None:
    model, rows = save_tiny(tmp_path / "start"), write_rows(tmp_path / "rows.jsonl")
    code, shown = call("sft", "--model", model, "--data", rows, "--output", str(tmp_path / "run"), *flags, columns=500)
    assert code == 1
    assert f"error: {flags[-1].strip('-').replace('-', '_')} needs " in shown
    assert "leave " in shown


def test_weights_of_four_bits_want_an_adapter_that_stays_apart() -> None:
    given = ["sft", "--model", "m", "--data", "d", "--output", "o", "--load-in-4bit"]
    code, shown = call(*given, columns=500)
    assert (code, "load_in_4bit needs use_peft" in shown) == (1, True)
    code, shown = call(*given, "--use-peft", "--merge-adapter", columns=500)
    assert (code, "drop --merge-adapter" in shown) == (1, True)


def test_weights_of_four_bits_are_normal_floats_computed_with_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "1.0")
    arguments: dict[str, Any] = placement(GPU, load_in_4bit=True)
    assert arguments["device_map"] == {"": GPU}
    found = arguments["quantization_config"]
    assert (found.load_in_4bit, found.bnb_4bit_quant_type) == (True, "nf4")
    assert found.bnb_4bit_compute_dtype == torch.bfloat16


def test_several_processes_load_straight_to_their_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert placement(GPU) == {}
    pretend_processes(2, monkeypatch)
    assert placement(GPU) == {"device_map": {"": GPU}}
    assert placement(CPU) == {}


def test_of_liger_the_layers_alone_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, bool]] = []
    monkeypatch.setattr(kernels, "apply_liger_kernel", lambda model, settings: seen.append(settings))
    kernels.use_liger_layers(torch.nn.Linear(1, 1))
    assert seen == [{"fused_linear_cross_entropy": False, "cross_entropy": False}]
