"""What a launcher asks for: refused in a sentence where no run can honour it, said where a run does otherwise."""

import os

import pytest
from helpers.command import call

from demotune import DemotuneError, SFTConfig, resume, run
from demotune.common.launches import refuse_launch, unmet


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("ACCELERATE_", "FSDP_", "PARALLELISM_", "MASTER_")) or name == "WORLD_SIZE":
            monkeypatch.delenv(name)


def launched(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


FSDP = {"ACCELERATE_USE_FSDP": "true"}
CUT = {**FSDP, "FSDP_VERSION": "2", "ACCELERATE_USE_PARALLELISM_CONFIG": "true"}


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        (FSDP, "FSDP version 1, "),
        ({**FSDP, "FSDP_VERSION": "1"}, "FSDP version 1, .*; give accelerate launch --use_fsdp --fsdp_version 2"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed, "),
        ({"ACCELERATE_USE_DEEPSPEED": "True", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, r"DeepSpeed \(ZeRO stage 3\), "),
        (
            {**FSDP, "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"},
            r"parameters in host memory \(fsdp_offload_params\), ",
        ),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "Megatron-LM, "),
        ({**CUT, "PARALLELISM_CONFIG_TP_SIZE": "2"}, "tensor parallelism over 2 processes, "),
        ({**CUT, "PARALLELISM_CONFIG_CP_SIZE": "4"}, "context parallelism over 4 processes, "),
    ],
)
def test_what_no_run_can_honour_is_refused(
    variables: dict[str, str], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched(monkeypatch, **variables)
    with pytest.raises(DemotuneError, match=f"^the launcher asks for {named}"):
        refuse_launch()


def test_a_run_is_refused_before_its_model_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, **FSDP)
    with pytest.raises(DemotuneError, match="the launcher asks for FSDP version 1"):
        run(SFTConfig(model="nowhere", data=("nowhere.jsonl",), output="nowhere"))
    with pytest.raises(DemotuneError, match="the launcher asks for FSDP version 1"):
        resume("nowhere")


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"ACCELERATE_USE_FSDP": "false", "ACCELERATE_USE_DEEPSPEED": "false", "FSDP_VERSION": "1"},
        {**FSDP, "FSDP_VERSION": "2"},
        {**CUT, "PARALLELISM_CONFIG_TP_SIZE": "1", "PARALLELISM_CONFIG_DP_SHARD_SIZE": "2"},
        {"ACCELERATE_USE_PARALLELISM_CONFIG": "false", "PARALLELISM_CONFIG_TP_SIZE": "2"},
    ],
)
def test_what_a_run_can_honour_is_not_refused(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, **variables)
    refuse_launch()


def test_processes_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unmet(1, on_cpu=True) == []
    launched(monkeypatch, MASTER_ADDR="127.0.0.1")
    assert unmet(1, on_cpu=True) == []
    launched(monkeypatch, ACCELERATE_DYNAMO_USE_DYNAMIC="False")  # as accelerate launch --num_processes 2 does
    (sentence,) = unmet(1, on_cpu=True)
    assert sentence.startswith("the launcher was asked for several processes, and this run has one; ")
    launched(monkeypatch, WORLD_SIZE="1")  # as torchrun --nproc_per_node 1 does
    assert unmet(1, on_cpu=True) == []
    launched(monkeypatch, OMPI_COMM_WORLD_SIZE="4")
    assert "was asked for 4 processes, and this run has one" in unmet(1, on_cpu=False)[0]
    assert unmet(4, on_cpu=False) == []


def test_fsdp_without_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, **FSDP, FSDP_VERSION="2")
    assert unmet(2, on_cpu=False) == []
    assert unmet(2, on_cpu=True) == [
        "the launcher asks for FSDP, which accelerate has on GPUs only: each process holds the whole model"
    ]


def test_a_command_of_one_process_is_refused_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, WORLD_SIZE="2")
    code, shown = call("report", "runs/x")
    assert code == 1
    assert "error: report works in one process, and the launcher started 2; " in shown
