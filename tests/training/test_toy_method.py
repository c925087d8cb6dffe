"""A method of one's own, all of it in this file: IPO (arXiv 2310.12036) on demonstrations and samples.

It is run, estimated, interrupted, resumed and reported by the functions that demotune's own methods go through.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from helpers.tiny import save_tiny, write_rows
from helpers.tiny_runs import STAGED
from safetensors.torch import load_file
from torch import nn

from demotune import DemotuneError, RunResult, SPINConfig, estimate_run, resume, run
from demotune.common.files import read_json, read_rows
from demotune.conclusion import conclude, write_page
from demotune.config.methods import CONFIGS
from demotune.models.logprobs import response_logps
from demotune.models.packing import Batch
from demotune.records import ScoredPair
from demotune.training.methods import METHODS, Method, method_of, register
from demotune.training.methods.irft import pairwise_phases
from demotune.training.objectives import PairObjective, StepLoss
from demotune.training.trainer import Interrupted, PhaseTrainer


@dataclass(frozen=True, kw_only=True)
class IPOConfig(SPINConfig):
    """IPO: the margin of log-ratios is drawn to 1 / (2 tau), and not beyond."""

    method: ClassVar[Any] = "ipo"

    tau: float = 0.1
    """Strength of the pull to the reference."""


PAIRS = PairObjective(beta=1.0, link="linear", sft_weight=0.0)
"""Pairs as they are packed for every method; its loss is not used."""


@dataclass(frozen=True)
class IPOObjective:
    """(log-ratio of the demonstration less that of the sample - 1 / (2 tau))^2; mean over pairs."""

    tau: float

    @property
    def loss_at_reference(self) -> float:
        return (1 / (2 * self.tau)) ** 2

    def tokens(self, record: ScoredPair) -> int:
        return PAIRS.tokens(record)

    def collate(self, records: Sequence[ScoredPair]) -> Batch:
        return PAIRS.collate(records)

    def __call__(self, model: nn.Module, batch: Batch) -> StepLoss:
        logps = response_logps(model, batch).summed()
        demo, sample = logps[batch["demo_rows"]], logps[batch["sample_rows"]]
        margin = demo - batch["demo_ref_logps"] - (sample - batch["sample_ref_logps"])
        loss = (margin - 1 / (2 * self.tau)) ** 2
        return StepLoss(loss.sum(), {"rewards/margins": margin.detach()}, at_start=loss.detach())


IPO = Method(config=IPOConfig, phases=pairwise_phases(lambda config: IPOObjective(config.tau)))


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    register(IPO)
    yield
    del METHODS["ipo"], CONFIGS["ipo"]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    save_tiny(folder / "start")
    write_rows(folder / "rows.jsonl")
    return folder


def config(place: Path, output: str) -> IPOConfig:
    inputs = {"model": str(place / "start"), "data": (str(place / "rows.jsonl"),), "output": str(place / output)}
    return IPOConfig(**inputs, **STAGED | {"stages": 2}, save_steps=1)


@pytest.fixture(scope="module")
def result(place: Path, registered: None) -> RunResult:
    return run(config(place, "run"))


def test_it_is_run(result: RunResult) -> None:
    phases = ["sample", "start", "reference", "train", "check"]
    assert [list(stage["phases"]) for stage in result.stages] == [phases, [name for name in phases if name != "start"]]
    for number in (0, 1):
        first, *_, last = read_rows(result.run_folder / "stages" / f"{number:02d}" / "metrics.jsonl")
        assert first["loss"] == pytest.approx(25.0, abs=1e-3)  # (1 / 0.2)^2
        assert first["rewards/margins"] == pytest.approx(0.0, abs=1e-4)
        assert last["loss"] < first["loss"]
    assert "method: ipo" in (result.run_folder / "run.yaml").read_text()
    assert "tau: 0.1" in (result.run_folder / "run.yaml").read_text()


def test_it_is_estimated(result: RunResult, place: Path) -> None:
    found = estimate_run(config(place, "unused"), "h100")
    assert [[work.name for work in found.work if work.stage == number] for number in (0, 1)] == [
        list(stage["phases"]) for stage in result.stages
    ]
    for work in found.work:
        record = result.stages[work.stage]["phases"][work.name]
        assert work.forward_tokens == pytest.approx(record["forward_tokens"], rel=0.03)
        assert work.trained_tokens == pytest.approx(record["trained_tokens"], rel=0.03)


def test_it_is_resumed(result: RunResult, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted in the middle of the second stage's steps; the end is that of the run that nobody interrupted."""
    folder, compute_loss = place / "stopped", PhaseTrainer.compute_loss

    def interrupting(trainer: PhaseTrainer, *inputs: Any, **named: Any) -> Any:
        if (folder / "stages" / "01").exists() and trainer.state.global_step == 1:
            raise Interrupted
        return compute_loss(trainer, *inputs, **named)

    with monkeypatch.context() as patch:
        patch.setattr(PhaseTrainer, "compute_loss", interrupting)
        with pytest.raises(Interrupted):
            run(config(place, "stopped"))
    assert list(read_json(folder / "stages" / "01" / "state.json")) == ["sample", "reference"]
    again = resume(folder)
    ours, theirs = (load_file(one.model_folder / "model.safetensors") for one in (again, result))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_it_is_reported(result: RunResult, place: Path) -> None:
    conclude(result.run_folder)
    card = (result.run_folder / "model" / "README.md").read_text()
    assert "trained from" in card
    assert "`tau`" in card
    page = write_page([result.run_folder], place / "page.html")
    assert "ipo" in page.read_text()


def test_a_config_of_no_method_is_refused() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Unknown(IPOConfig):
        pass

    assert method_of(IPOConfig(output="x")) is IPO
    with pytest.raises(DemotuneError, match=r"Unknown is the config of no method \(sft, spin, irft, rft, ipo\); add"):
        method_of(Unknown(output="x"))
