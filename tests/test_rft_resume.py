"""RFT killed in its sample, reward and policy phases and resumed equals uninterrupted, bit for bit."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.killing import Killed, after_append, die_at, die_at_call, recorded
from helpers.tiny import save_tiny, write_rows
from safetensors.torch import load_file
from transformers import Trainer

from demotune import DemotuneError, RFTConfig, resume, run
from demotune.common.files import read_rows
from demotune.common.journals import Journal, read_journal
from demotune.training.trainer import PhaseTrainer

# Two stages; every phase has checkpoints and several batches; a value head, two passes over each batch.
FIELDS: dict[str, Any] = {
    "max_length": 64,
    "max_new_tokens": 6,
    "samples_per_prompt": 1,
    "learning_rate": 1e-3,
    "reward_learning_rate": 1e-3,
    "finished_only": False,
    "stages": 2,
    "reward_epochs": 2.0,
    "reward_eval_steps": 2,
    "per_device_train_batch_size": 4,
    "prompts_per_batch": 3,
    "num_generations": 2,
    "policy_batches": 3,
    "num_iterations": 2,
    "advantage": "gae",
    "lam": 0.9,
    "kl_target": 0.5,
    "save_steps": 2,
    "eval_share": 0.2,
    "stop_length_ratio": 0.0,
    "bf16": False,
    "force": True,
}
NUMBERS = ("loss", "grad_norm", "learning_rate", "rewards/margins", "eval_loss", "reward", "kl", "beta", "step")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rft-resume")
    save_tiny(folder / "start")
    write_rows(folder / "rows.jsonl")
    return folder


def config(place: Path, name: str, **fields: object) -> RFTConfig:
    data = (str(place / "rows.jsonl"),)
    return RFTConfig(**{"model": str(place / "start"), "data": data, "output": str(place / name), **FIELDS, **fields})


@pytest.fixture(scope="module")
def uninterrupted(place: Path) -> Path:
    return run(config(place, "uninterrupted")).run_folder


def assert_equal_runs(found: Path, expected: Path) -> None:
    for part in ("model", "reward"):
        ours, theirs = (load_file(next((folder / part).glob("*.safetensors"))) for folder in (found, expected))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours), part
    names = sorted(
        str(file.relative_to(expected))
        for pattern in ("stages/*/*.jsonl.gz", "stages/*/check.json", "stages/*/rollouts/*")
        for file in expected.glob(pattern)
    )
    assert len(names) > 2 * (2 + 1 + 6)
    for name in names:
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name
    assert recorded(found, NUMBERS) == recorded(expected, NUMBERS)
    assert not [*found.rglob("*.partial.jsonl"), *found.rglob("checkpoint-*")]


def test_the_run_has_what_it_should_be_killed_in(uninterrupted: Path) -> None:
    """Both phases of both stages took several steps, and the KL coefficient moved."""
    metrics = read_rows(uninterrupted / "metrics.jsonl")
    for stage in (0, 1):
        steps = {
            phase: max(
                row["step"] for row in metrics if row["stage"] == stage and row["phase"] == phase and "step" in row
            )
            for phase in ("reward", "policy")
        }
        assert steps["reward"] >= 4
        assert steps["policy"] == 6
    betas = {row["beta"] for row in metrics if row["phase"] == "policy" and "beta" in row}
    assert len(betas) > 2


def test_killed_at_any_file_and_resumed(place: Path, uninterrupted: Path) -> None:
    """Ten moments at which a file becomes durable, spread over the whole run."""
    with pytest.MonkeyPatch.context() as patch:
        count = die_at(0, patch)
        run(config(place, "counted"))
        moments = count()
    assert moments > 200
    for number in sorted({*range(3, moments, moments // 9), moments}):
        name = f"killed-at-{number}"
        with pytest.MonkeyPatch.context() as patch:
            die_at(number, patch)
            with pytest.raises(Killed):
                run(config(place, name))
        if (place / name / "manifest.json").exists():
            resume(place / name)
        else:
            run(config(place, name))
        assert_equal_runs(place / name, uninterrupted)


@pytest.mark.parametrize("use_peft", [False, True])
def test_killed_in_reward_steps_and_inside_a_batch_of_policy_steps(
    use_peft: bool, place: Path, uninterrupted: Path
) -> None:
    """Killed in reward step 3, then inside the second pass over a batch, twice. LoRA too."""
    name = f"steps-{use_peft}"
    expected = run(config(place, f"{name}-whole", use_peft=True)).run_folder if use_peft else uninterrupted
    for number in (3, 8, 9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Trainer, "training_step", die_at_call(Trainer.training_step, number))
            with pytest.raises(Killed):
                resume(place / name) if (place / name).exists() else run(config(place, name, use_peft=use_peft))
    resume(place / name)
    assert_equal_runs(place / name, expected)


def test_a_batch_resumed_inside_its_updates_keeps_its_rollouts(place: Path, uninterrupted: Path) -> None:
    """After a kill in the second pass over batch 0 nothing of that batch is drawn or scored again."""
    name = "kept-rollouts"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PhaseTrainer, "compute_loss", _die_in_policy_step(PhaseTrainer.compute_loss, 1))
        with pytest.raises(Killed):
            run(config(place, name))
    folder = place / name / "stages" / "00" / "rollouts"
    assert [file.name for file in folder.glob("*.jsonl.gz")] == ["0000.jsonl.gz"]
    kept = [folder / "0000.jsonl.gz", folder / "0000.json"]
    written = [(file.stat().st_ino, file.stat().st_mtime_ns) for file in kept]
    resume(place / name)
    assert [(file.stat().st_ino, file.stat().st_mtime_ns) for file in kept] == written
    assert_equal_runs(place / name, uninterrupted)


@pytest.mark.parametrize("with_logps", [True, False])
def test_a_batch_killed_while_it_is_drawn_is_drawn_as_a_whole(
    with_logps: bool, place: Path, uninterrupted: Path
) -> None:
    """The last bits of what drawing tells depend on the rows that are drawn together.

    Killed when the first batch is in its journal, of which half is left, or all of it without log-probabilities.
    """
    name = f"drawn-{with_logps}"
    stage = place / name / "stages" / "00"

    def die_when_drawn(_: object) -> None:
        if any(len(read_journal(file)) == 6 for file in stage.glob("policy-0-*.partial.jsonl")):
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        after_append(die_when_drawn, patch)
        with pytest.raises(Killed):
            run(config(place, name))
    [journal] = stage.glob("policy-0-*.partial.jsonl")
    rows = read_journal(journal)
    left = rows[:3] if with_logps else [{name: row[name] for name in row if name != "logps"} for row in rows]
    journal.unlink()
    Journal(journal).append(left)
    drawn: list[int] = []

    def note(added: list[Mapping[str, Any]]) -> None:
        if not (stage / "rollouts" / "0000.jsonl.gz").exists():
            drawn.extend(row["row"] for row in added)

    with pytest.MonkeyPatch.context() as patch:
        after_append(note, patch)
        resume(place / name)
    assert sorted(drawn) == list(range(6))
    assert_equal_runs(place / name, uninterrupted)


def test_the_reference_stays_the_initial_policy(place: Path, uninterrupted: Path) -> None:
    """The last batch's reference log-probabilities are those of the start model, in both stages, also after a kill."""
    from demotune.models.logprobs import naive_response_logps
    from demotune.models.policy import content_hash, load_policy

    start = load_policy(place / "start", dtype="float32", attn_implementation="eager", device=torch.device("cpu"))
    for folder in (uninterrupted, place / "kept-rollouts"):
        for stage in ("00", "01"):
            for row in read_rows(folder / "stages" / stage / "rollouts" / "0002.jsonl.gz")[:2]:
                with torch.no_grad():
                    expected = naive_response_logps(start, row["prompt_ids"], row["response"]["ids"])
                assert row["ref_logps"] == pytest.approx(expected.tolist(), abs=1e-4)
                assert row["logps"] != pytest.approx(row["ref_logps"], abs=1e-3)
            state = (folder / "stages" / stage / "state.json").read_text()
            assert f'"reference": "{content_hash(place / "start")}"' in state


@pytest.mark.parametrize("damaged", ["0000.jsonl.gz", "0000.json", "0001.sealed", "values-0001.safetensors"])
def test_a_damaged_batch_of_unfinished_policy_steps_begins_them_anew(
    damaged: str, place: Path, uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed in the second batch, a checkpoint after its first step; two steps a batch."""
    name = f"damaged-{damaged}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PhaseTrainer, "compute_loss", _die_in_policy_step(PhaseTrainer.compute_loss, 3))
        with pytest.raises(Killed):
            run(config(place, name, save_steps=3))
    stage = place / name / "stages" / "00"
    assert [path.name for path in stage.glob("policy-checkpoints/*")] == ["checkpoint-3"]
    file = stage / "rollouts" / damaged
    if file.suffix == ".sealed":
        file.unlink()
    else:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    resume(place / name)
    assert f"{damaged} is damaged; the policy steps of stage 1 begin anew" in capsys.readouterr().out
    assert_equal_runs(place / name, uninterrupted)


def test_damaged_rollouts_of_finished_policy_steps_are_refused(uninterrupted: Path, tmp_path: Path) -> None:
    shutil.copytree(uninterrupted, tmp_path / "run")
    file = tmp_path / "run" / "stages" / "00" / "rollouts" / "0001.jsonl.gz"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(DemotuneError, match=r"rollouts, written by the policy phase, is changed"):
        resume(tmp_path / "run")


def test_a_changed_reward_is_refused(place: Path) -> None:
    name = "changed-reward"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PhaseTrainer, "compute_loss", _die_in_policy_step(PhaseTrainer.compute_loss, 0))
        with pytest.raises(Killed):
            run(config(place, name))
    weights = place / name / "stages" / "00" / "reward" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(DemotuneError, match=r"stages/00/reward, written by the reward phase, is changed"):
        resume(place / name)


def _die_in_policy_step(compute_loss: Any, step: int) -> Any:
    def dying(self: PhaseTrainer, model: Any, inputs: Any, *arguments: Any, **named: Any) -> Any:
        if "old_logps" in inputs and self.state.global_step == step:
            raise Killed
        return compute_loss(self, model, inputs, *arguments, **named)

    return dying
