"""Killed anywhere and resumed equals uninterrupted, bit for bit; nothing is appended twice; changes are refused."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.killing import Killed, after_append, die_at, die_at_call, recorded
from helpers.tiny import save_tiny, write_rows
from helpers.tiny_runs import STAGED
from safetensors.torch import load_file
from transformers import LlamaForCausalLM, Trainer

from demotune import DemotuneError, IRFTConfig, SFTConfig, resume, run
from demotune.common.files import read_json, read_rows, write_json
from demotune.common.interrupts import stopping_like_ctrl_c
from demotune.common.journals import read_journal
from demotune.training import launch
from demotune.training.callbacks import StopOnSignal
from demotune.training.trainer import Interrupted, PhaseTrainer

# Checkpoints inside each stage (every 2 of 3 steps), pairs of the last stage mixed in, a carried optimizer.
FIELDS = {
    **STAGED,
    "save_steps": 2,
    "history": 0.5,
    "optimizer_across_stages": "carry",
    "gradient_accumulation_steps": 1,
}
NUMBERS = ("loss", "grad_norm", "learning_rate", "rewards/margins", "logps/chosen", "logps/rejected", "entropy", "step")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    save_tiny(folder / "start")
    write_rows(folder / "rows.jsonl")
    return folder


def config(place: Path, name: str, **fields: object) -> IRFTConfig:
    data = (str(place / "rows.jsonl"),)
    return IRFTConfig(**{"model": str(place / "start"), "data": data, "output": str(place / name), **FIELDS, **fields})


@pytest.fixture(scope="module")
def uninterrupted(place: Path) -> Path:
    return run(config(place, "uninterrupted")).run_folder


def assert_equal_runs(found: Path, expected: Path) -> None:
    ours, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (found, expected))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for name in (
        "00/samples.jsonl.gz",
        "00/reference_logps.jsonl.gz",
        "01/samples.jsonl.gz",
        "01/reference_logps.jsonl.gz",
    ):
        assert (found / "stages" / name).read_bytes() == (expected / "stages" / name).read_bytes()
    for check in ("00/check.json", "01/check.json"):
        assert (found / "stages" / check).read_bytes() == (expected / "stages" / check).read_bytes()
    assert recorded(found, NUMBERS) == recorded(expected, NUMBERS)
    assert not list(found.rglob("*.partial.jsonl"))


def test_killed_at_any_file_and_resumed(place: Path, uninterrupted: Path) -> None:
    """Some twenty moments spread over the whole run, the first and the last among them."""
    with pytest.MonkeyPatch.context() as patch:
        count = die_at(0, patch)
        run(config(place, "counted"))
        moments = count()
    assert moments > 100
    for number in sorted({*range(1, moments, moments // 16), moments}):
        name = f"killed-at-{number}"
        with pytest.MonkeyPatch.context() as patch:
            die_at(number, patch)
            with pytest.raises(Killed):
                run(config(place, name))
        if (place / name / "manifest.json").exists():
            resume(place / name)
        else:  # it died before it was a run; the same command starts it
            run(config(place, name))
        assert_equal_runs(place / name, uninterrupted)


@pytest.mark.parametrize("step", [1, 2, 3, 4, 6])
def test_killed_inside_training_and_resumed(step: int, place: Path, uninterrupted: Path) -> None:
    name = f"killed-in-step-{step}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "training_step", die_at_call(Trainer.training_step, step))
        with pytest.raises(Killed):
            run(config(place, name))
    resume(place / name)
    assert_equal_runs(place / name, uninterrupted)


def test_killed_while_a_checkpoint_is_written(place: Path, uninterrupted: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "save", die_at_call(torch.save, 1))  # the weights are there, the optimizer is not
        with pytest.raises(Killed):
            run(config(place, "torn-checkpoint"))
    assert list((place / "torn-checkpoint").rglob("checkpoint-*"))
    resume(place / "torn-checkpoint")
    assert_equal_runs(place / "torn-checkpoint", uninterrupted)


def test_killed_twice_with_accumulation_and_lora(place: Path) -> None:
    fields = {"use_peft": True, "lora_r": 2, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}
    expected = run(config(place, "lora-whole", **fields)).model_folder
    for round_number in (3, 5):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Trainer, "training_step", die_at_call(Trainer.training_step, round_number))
            with pytest.raises(Killed):
                run(config(place, "lora", **fields)) if round_number == 3 else resume(place / "lora")
    found = resume(place / "lora").model_folder
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (found, expected))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_sft_resumes_too(place: Path) -> None:
    fields = {name: STAGED[name] for name in ("max_length", "per_device_train_batch_size", "bf16", "learning_rate")}

    def sft(name: str) -> SFTConfig:
        data = (str(place / "rows.jsonl"),)
        return SFTConfig(model=str(place / "start"), data=data, output=str(place / name), save_steps=2, **fields)

    expected = run(sft("sft-whole")).model_folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "training_step", die_at_call(Trainer.training_step, 8))
        with pytest.raises(Killed):
            run(sft("sft"))
    found = resume(place / "sft").model_folder
    assert (found / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_writes_a_checkpoint_and_leaves_a_resumable_run(
    number: signal.Signals, place: Path, uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sent twice, as a closing terminal does; only a second Ctrl-C would stop at once."""
    name, times = f"stopped-by-{number.name}", 1 if number == signal.SIGINT else 2
    before = signal.getsignal(number)
    compute_loss = PhaseTrainer.compute_loss

    def interrupting(self: PhaseTrainer, *arguments: object, **named: object) -> torch.Tensor:
        if self.state.global_step == 0:
            for _ in range(times):
                os.kill(os.getpid(), number)
        return compute_loss(self, *arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PhaseTrainer, "compute_loss", interrupting)
        with pytest.raises(Interrupted):
            run(config(place, name))
    assert (place / name / "stages" / "00" / "checkpoints" / "checkpoint-1").is_dir()
    shown = capsys.readouterr().out
    assert shown.count("stopping: this step is finished first") == 1
    assert f"stopped; what is done is kept: continue with demotune resume {place / name}" in shown.replace("\n", "")
    assert signal.getsignal(number) == before
    resume(place / name)
    assert_equal_runs(place / name, uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_while_samples_are_drawn_ends_like_ctrl_c(
    number: signal.Signals, place: Path, uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"drawing-{number.name}"

    def interrupt() -> None:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)

    with pytest.MonkeyPatch.context() as patch:
        while_drawing(interrupt, patch)
        with pytest.raises(KeyboardInterrupt):
            run(config(place, name))
    assert "stopped; what is done is kept: continue with demotune resume" in capsys.readouterr().out
    [journal] = (place / name / "stages" / "00").glob("sample-*.partial.jsonl")
    assert 3 <= len(read_journal(journal)) < len(read_rows(uninterrupted / "stages" / "00" / "samples.jsonl.gz"))
    resume(place / name)
    assert_equal_runs(place / name, uninterrupted)


def test_a_run_under_nohup_outlives_its_terminal() -> None:
    """nohup ignores SIGHUP; what is ignored stays ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping_like_ctrl_c(), StopOnSignal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, before)


SLOW_RUN = """
import sys, time
from demotune.config.config_files import load_config
from demotune.pipeline import run
from demotune.training.trainer import PhaseTrainer
step = PhaseTrainer.training_step
def slow(self, *arguments, **named):
    time.sleep(0.5)
    return step(self, *arguments, **named)
PhaseTrainer.training_step = slow
import torch
torch.set_num_threads(1)
run(load_config(__import__("pathlib").Path(sys.argv[1])))
"""


IN_A_TERMINAL_THAT_CLOSES = """
import os, pty, sys, time
from pathlib import Path
child, terminal = pty.fork()
if child == 0:
    os.execv(sys.executable, [sys.executable, "-c", sys.argv[1], sys.argv[2]])
metrics, end = Path(sys.argv[3]), time.monotonic() + 90
while not metrics.exists() or not metrics.read_bytes():
    os.read(terminal, 4096)
    assert time.monotonic() < end
os.close(terminal)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) % 256)
"""


def test_a_terminal_that_closes_costs_nothing(place: Path, uninterrupted: Path) -> None:
    """The kernel sends SIGHUP, and every later write to the terminal fails; the checkpoint is written all the same."""
    from demotune.config.config_files import save_config

    torch.set_num_threads(1)
    folder = place / "closed"
    save_config(config(place, "closed"), place / "closed.yaml")
    metrics = folder / "stages" / "00" / "metrics.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", IN_A_TERMINAL_THAT_CLOSES, SLOW_RUN, str(place / "closed.yaml"), str(metrics)],
        check=False,
    )
    assert [path.name for path in folder.glob("stages/00/checkpoints/*")]
    assert done.returncode != 0
    assert not (folder / "stages" / "01").exists()
    resume(folder)
    assert_equal_runs(folder, uninterrupted)


def test_kill_9_of_a_real_process(place: Path, uninterrupted: Path) -> None:
    """SIGKILL while stage 1 trains; while the process lives its folder is refused to others."""
    from demotune.config.config_files import save_config

    torch.set_num_threads(1)
    folder = place / "kill-9"
    save_config(config(place, "kill-9"), place / "kill-9.yaml")
    child = subprocess.Popen([sys.executable, "-c", SLOW_RUN, str(place / "kill-9.yaml")], stdout=subprocess.DEVNULL)
    for _ in wait_until(lambda: len(read_lines(folder / "stages" / "01" / "metrics.jsonl")) >= 1, child):
        time.sleep(0.05)
    with pytest.raises(DemotuneError, match=f"in use by process {child.pid}"):
        resume(folder)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    resume(folder)
    assert_equal_runs(folder, uninterrupted)


def test_a_changed_config_is_refused_with_the_difference(place: Path, uninterrupted: Path) -> None:
    copied = _interrupted(place, "changed-config")
    text = (copied / "run.yaml").read_text()
    (copied / "run.yaml").write_text(text.replace("beta: 0.1", "beta: 0.2"))
    with pytest.raises(DemotuneError, match=r"config beta: 0\.1 when it began, 0\.2 now"):
        resume(copied)
    (copied / "run.yaml").write_text(text)
    resume(copied)
    assert_equal_runs(copied, uninterrupted)


def test_changed_data_model_or_outputs_are_refused(place: Path, tmp_path: Path) -> None:
    model, data = tmp_path / "model", tmp_path / "rows.jsonl"
    save_tiny(model)
    write_rows(data)
    folder = _interrupted(place, "changed-inputs", model=str(model), data=(str(data),))
    original = data.read_text()
    data.write_text(original.replace("of course 1", "of course 9"))
    with pytest.raises(DemotuneError, match=r"data .*rows\.jsonl"):
        resume(folder)
    data.write_text(original)
    save_tiny(model, seed=1)
    with pytest.raises(DemotuneError, match="model: the files of"):
        resume(folder)
    save_tiny(model)
    samples = folder / "stages" / "00" / "samples.jsonl.gz"
    kept = samples.read_bytes()
    samples.write_bytes(kept[:-1] + b"?")
    with pytest.raises(DemotuneError, match=r"samples\.jsonl\.gz, written by the sample phase, is changed"):
        resume(folder)
    samples.write_bytes(kept)
    assert resume(folder).model_folder.is_dir()


# Damage --------------------------------------------------------------------------------------------------------------


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_damaged_carried_optimizer_is_made_again(
    place: Path, uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed in stage 1; what stage 0 left for it is damaged, so stage 0 trains again. A finished run needs none."""
    folder, name = place / "carried", "carried-optimizer.pt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "training_step", die_at_call(Trainer.training_step, 4))
        with pytest.raises(Killed):
            run(config(place, "carried"))
    assert (folder / "stages" / "01" / "reference_logps.jsonl.gz").exists()
    _flip(folder / "stages" / "00" / name)
    resume(folder)
    assert f"{name} is damaged; stage 1 is trained again" in capsys.readouterr().out.replace("\n", "")
    assert_equal_runs(folder, uninterrupted)
    for stage in ("00", "01"):
        _flip(folder / "stages" / stage / name)
    resume(folder)
    assert "is damaged" not in capsys.readouterr().out
    assert_equal_runs(folder, uninterrupted)


def test_a_changed_token_in_a_journal_of_samples_is_drawn_again(
    place: Path, uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        after_append(die, patch)
        with pytest.raises(Killed):
            run(config(place, "changed-token"))
    [journal] = (place / "changed-token" / "stages" / "00").glob("sample-*.partial.jsonl")
    first = json.loads(journal.read_text().splitlines()[0])["ids"]
    journal.write_text(journal.read_text().replace(json.dumps(first), json.dumps([first[0] ^ 1, *first[1:]]), 1))
    resume(place / "changed-token")
    assert "1 damaged line dropped; what was there is made again" in capsys.readouterr().out
    assert_equal_runs(place / "changed-token", uninterrupted)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("manifest.json", r"manifest\.json cannot be read"),
        ("run.yaml", r"run\.yaml"),
        ("rows.jsonl.gz", r"rows\.jsonl\.gz, written when the run began, is (changed|missing)"),
        ("stages/00/state.json", r"stages/00/state\.json (cannot be read|is missing)"),
        ("stages/01/state.json", r"stages/01/state\.json (cannot be read|is missing)"),
        ("stages/00/check.json", r"check\.json, written by the check phase, is (changed|missing)"),
        ("stages/00/metrics.jsonl", r"metrics\.jsonl, written by the train phase, is (changed|missing)"),
        ("stages/00/start.jsonl.gz", r"start\.jsonl\.gz, written by the start phase, is (changed|missing)"),
    ],
)
def test_torn_and_missing_files_of_a_run_are_named(
    name: str, message: str, place: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    text = (folder / "run.yaml").read_text()
    with pytest.raises(DemotuneError, match=message):
        resume(folder)
    if name in ("manifest.json", "run.yaml"):
        return  # a folder without these holds no run
    (folder / name).unlink()
    with pytest.raises(DemotuneError, match=message):
        resume(folder)
    assert (folder / "run.yaml").read_text() == text


def test_a_manifest_and_a_state_without_their_fields_are_named(uninterrupted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    manifest, state = folder / "manifest.json", folder / "stages" / "00" / "state.json"
    whole, fields = manifest.read_text(), read_json(manifest)
    manifest.write_text(whole.replace('"versions"', '"versionz"'))
    with pytest.raises(DemotuneError, match=r"manifest\.json cannot be read \(it has changed since it was written\)"):
        resume(folder)
    write_json(manifest, {name: value for name, value in fields.items() if name != "versions"})
    with pytest.raises(DemotuneError, match=r"manifest\.json cannot be read \(it lacks versions\)"):
        resume(folder)
    manifest.write_text(whole)
    write_json(state, {phase: {**record, "outputs": 3} for phase, record in read_json(state).items()})
    with pytest.raises(DemotuneError, match=r"state\.json cannot be read \(it names no outputs of the sample phase"):
        resume(folder)


def test_a_batch_torn_inside_its_lines_is_done_again(place: Path, uninterrupted: Path) -> None:
    """The file system kept half of what was written: the batch's first rows are there, its last ones are not."""
    with pytest.MonkeyPatch.context() as patch:
        after_append(lambda rows: die(rows) if "demo_ref_logp" in rows[0] else None, patch)
        with pytest.raises(Killed):
            run(config(place, "torn"))
    journal = place / "torn" / "stages" / "00" / "reference-0.partial.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:2]) + lines[2][:10])
    resume(place / "torn")
    assert_equal_runs(place / "torn", uninterrupted)


def test_journalled_responses_are_not_drawn_again(place: Path, uninterrupted: Path) -> None:
    """Stopped while the responses of stage 0 are drawn: those that are finished are kept, only the others are drawn."""
    drawn: list[int] = []
    samples = place / "kept-samples" / "stages" / "00" / "samples.jsonl.gz"

    def note(rows: list[Mapping[str, Any]]) -> None:
        if not samples.exists():
            drawn.extend(row["row"] for row in rows)

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        while_drawing(interrupt, patch)
        with pytest.raises(KeyboardInterrupt):
            run(config(place, "kept-samples"))
    [journal] = (place / "kept-samples" / "stages" / "00").glob("sample-*.partial.jsonl")
    kept = {record["row"] for record in read_journal(journal)}
    assert len(kept) >= 3
    with pytest.MonkeyPatch.context() as patch:
        after_append(note, patch)
        resume(place / "kept-samples")
    assert sorted(drawn) == sorted(set(range(len(read_rows(samples)))) - kept)
    assert drawn
    assert_equal_runs(place / "kept-samples", uninterrupted)


def test_processes_that_cannot_share_its_steps_are_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _interrupted(place, "processes")
    monkeypatch.setattr(launch, "process_count", lambda: 3)
    with pytest.raises(DemotuneError, match=r"begun by 1 process with 4 pairs a step, which 3 processes cannot share"):
        resume(folder)


def test_resuming_what_is_no_run_or_is_finished(place: Path, uninterrupted: Path, tmp_path: Path) -> None:
    with pytest.raises(DemotuneError, match="holds no run to resume"):
        resume(tmp_path / "nothing")
    before = (uninterrupted / "model" / "model.safetensors").stat().st_ino
    metrics = (uninterrupted / "metrics.jsonl").read_bytes()
    resume(uninterrupted)
    assert (uninterrupted / "metrics.jsonl").read_bytes() == metrics
    assert (uninterrupted / "model" / "model.safetensors").stat().st_ino == before


def die(_: object) -> None:
    raise Killed


def while_drawing(act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Call `act` in the policy's 14th pass: some of the 15 responses are finished by then, others are not."""
    forward, passes = LlamaForCausalLM.forward, 0

    @functools.wraps(forward)  # transformers asks which arguments it takes
    def counting(*arguments: object, **named: object) -> object:
        nonlocal passes
        passes += 1
        if passes == 14:
            act()
        return forward(*arguments, **named)

    monkeypatch.setattr(LlamaForCausalLM, "forward", counting)


def _interrupted(place: Path, name: str, **fields: object) -> Path:
    """A run that died in its first training step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "training_step", die_at_call(Trainer.training_step, 1))
        with pytest.raises(Killed):
            run(config(place, name, **fields))
    return place / name


def read_lines(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def wait_until(holds: Callable[[], bool], child: subprocess.Popen[bytes], seconds: float = 90) -> Iterator[None]:
    end = time.monotonic() + seconds
    while not holds():
        assert child.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < end, "the run took too long"
        yield
