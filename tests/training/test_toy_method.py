"""A method of one's own, all of it in this file: IPO (arXiv 2310.12036) on demonstrations and samples.

It is run, estimated, interrupted, resumed and reported by the functions that demotune's own methods go through. A
second one has a training phase of its own: SFT under another name.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from helpers.tiny import save_tiny, write_rows
from helpers.tiny_runs import SMALL, STAGED
from safetensors.torch import load_file
from torch import nn

from demotune import DemotuneError, RunResult, SFTConfig, SPINConfig, estimate_run, load_run, resume, run
from demotune.common.files import read_json, read_rows
from demotune.conclusion import conclude, write_page
from demotune.config.methods import CONFIGS
from demotune.models.logprobs import response_logps
from demotune.models.packing import Batch
from demotune.records import ScoredPair
from demotune.training.fit import fit
from demotune.training.methods import METHODS, Method, Phase, method_of, register, sft
from demotune.training.methods.irft import pairwise_phases
from demotune.training.microbatches import config_microbatches
from demotune.training.objectives import PairObjective, StepLoss
from demotune.training.phases import check, start, train
from demotune.training.stage import Outcome, Stage, stage_slice
from demotune.training.trainer import Fit, Interrupted, PhaseTrainer


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


@dataclass(frozen=True, kw_only=True)
class CloneConfig(SFTConfig):
    """SFT, in a phase with the name "clone"."""

    method: ClassVar[Any] = "clone"


def clone(stage: Stage) -> Outcome:
    """Passes over the demonstrations."""
    config, rows = stage.setup.config, stage_slice(stage.setup, stage.number)
    assert isinstance(config, CloneConfig)
    lengths = [len(row.prompt_ids) + len(row.demo.ids) for row in rows]
    seed = stage.seed("microbatches")
    plan = config_microbatches(stage.setup, lengths, epochs=config.num_train_epochs, steps=config.max_steps, seed=seed)
    batches = [[rows[number] for number in plan.units[unit]] for unit in plan.order]
    loss = sft.objective(config)

    def prepare(_: int | None) -> Fit:
        return Fit(model=stage.start_policy, objective=loss, microbatches=batches, steps=plan.steps, title="clone")

    fitted = fit(stage, "clone", prepare)
    stage.publish_policy()
    return Outcome(
        outputs={"model": None, "clone-metrics.jsonl": None},
        trained_tokens=fitted.tokens,
        facts={"steps": plan.steps, "end": fitted.end},
    )


CLONE = Method(
    config=CloneConfig,
    phases=(
        Phase("start", start.run, start.work, first_stage_only=True),
        Phase("clone", clone, train.work_on_demonstrations),
        Phase("check", check.run, check.work),
    ),
)


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    register(IPO)
    register(CLONE)
    yield
    for name in ("ipo", "clone"):
        del METHODS[name], CONFIGS[name]  # type: ignore[arg-type]


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


def test_a_training_phase_may_have_any_name(place: Path, registered: None) -> None:
    """Weights, metrics and cost are those of SFT; an interrupted phase goes on from checkpoints of its own."""
    same = {**SMALL, "model": str(place / "start"), "data": (str(place / "rows.jsonl"),), "save_steps": 1}
    expected, found = run(SFTConfig(output=str(place / "sft"), **same)), place / "clone"
    compute_loss = PhaseTrainer.compute_loss

    def interrupting(trainer: PhaseTrainer, *inputs: Any, **named: Any) -> Any:
        if trainer.state.global_step == 2:
            raise Interrupted
        return compute_loss(trainer, *inputs, **named)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(PhaseTrainer, "compute_loss", interrupting)
        run(CloneConfig(output=str(found), **same))
    assert (found / "stages" / "00" / "clone-checkpoints" / "checkpoint-2").exists()
    result = resume(found)
    ours, theirs = (load_file(one.model_folder / "model.safetensors") for one in (result, expected))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for name in ("loss", "grad_norm", "eval_nll_per_token"):
        assert result.metrics[name] == expected.metrics[name]
    assert load_run(found).cost.steps == load_run(expected.run_folder).cost.steps > 2
    losses = [row["loss"] for row in load_run(found).stages[0].training if "loss" in row]
    assert losses == [row["loss"] for row in load_run(expected.run_folder).stages[0].training if "loss" in row]
    assert losses == [row["loss"] for row in read_rows(found / "metrics.jsonl") if "loss" in row]


def test_a_config_of_no_method_is_refused() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Unknown(IPOConfig):
        pass

    assert method_of(IPOConfig(output="x")) is IPO
    with pytest.raises(
        DemotuneError, match=r"Unknown is the config of no method \(sft, spin, irft, rft, ipo, clone\); add"
    ):
        method_of(Unknown(output="x"))
