"""The whole story: demonstrations -> slice -> samples -> reference scores -> steps -> check -> next stage -> model."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from demotune.common.errors import DemotuneError
from demotune.common.interrupts import stopping_like_ctrl_c
from demotune.common.launches import refuse_launch
from demotune.common.memory import keep_memory
from demotune.common.processes import main_process, wait_for_everyone
from demotune.common.profiling import profiled
from demotune.common.progress import say, warn
from demotune.conclusion import conclude
from demotune.config.config_files import differing_fields, save_config
from demotune.config.methods import AnyConfig
from demotune.config.sampler import drawn_elsewhere, engine_of
from demotune.estimation.forecast import estimate_here, say_forecast
from demotune.estimation.memory_fit import fit_to_memory
from demotune.estimation.profile_table import show_profile
from demotune.push import check_can_push, push
from demotune.result import RunResult, publish_result, read_result, show_result
from demotune.runs.folder import RunFolder
from demotune.runs.manifest import read_manifest
from demotune.training.callbacks import TimeSteps
from demotune.training.launch import refuse_idle_processes, refuse_uneven_steps, say_processes
from demotune.training.manifest import check_unchanged, write_manifest
from demotune.training.objects import keep_objects
from demotune.training.phase_loop import run_stage, stopped_by_gate
from demotune.training.prepare import prepare_run
from demotune.training.setup import Setup
from demotune.training.tracking import Tracking


def run(
    config: AnyConfig,
    *,
    model: Any = None,
    train_dataset: Any = None,
    eval_dataset: Any = None,
    processing_class: Any = None,
    peft_config: Any = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> RunResult:
    """Run one method from demonstrations to an aligned model, in the folder `config.output`.

    What is passed stands in for the config's fields and is kept in the run folder, so that the run can be resumed
    without it: `model` (a transformers model, folder or hub id) for `config.model`, `processing_class` for its
    tokenizer, `train_dataset` and `eval_dataset` for `data` and `eval_data`, `peft_config` for the LoRA fields.
    A data set is a datasets.Dataset, a stream or DatasetDict of datasets (its split `train`; `validation` or `test` is
    held out), a pandas.DataFrame, a dict of columns, a list of rows, or the path of a file. `callbacks` are
    transformers callbacks for every training phase. Raises DemotuneError for anything the user can fix.
    """
    refuse_launch()
    if config.push_to_hub is not None:
        check_can_push(config.push_to_hub)
    folder = RunFolder(Path(config.output))
    with _held(folder), stopping_like_ctrl_c():
        if main_process():
            folder.refuse_if_taken()
        config = keep_objects(
            config,
            folder,
            model=model,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            peft_config=peft_config,
        )
        tracking = Tracking(folder)
        setup = fit_to_memory(prepare_run(config, folder, (*callbacks, TimeSteps(), tracking)))
        refuse_idle_processes(setup)
        write_manifest(setup)
        return _finish(setup, tracking)


def resume(
    folder: str | Path,
    *,
    callbacks: Sequence[TrainerCallback] = (),
    sampler: str | None = None,
    vllm_python: str | None = None,
) -> RunResult:
    """Take up a run where it stopped, in whatever phase; the result equals that of an uninterrupted run.

    To the bit with as many processes as began it, up to the order of sums with another number.
    A run whose responses an engine draws may go on with another one: `sampler` and `vllm_python` say where, not what.
    Raises DemotuneError when config, data or model are no longer what the run began with, when the records of a step
    cannot be shared evenly by these processes, or the folder is in use.
    """
    refuse_launch()
    run_folder = RunFolder(Path(folder))
    config = drawn_elsewhere(run_folder.read_config(), sampler, vllm_python)
    with _held(run_folder), stopping_like_ctrl_c():
        tracking = Tracking(run_folder)
        begun_by = read_manifest(run_folder.manifest).processes
        setup = prepare_run(config, run_folder, (*callbacks, TimeSteps(), tracking), begun_by)
        check_unchanged(setup)
        refuse_uneven_steps(setup)
        if config != run_folder.read_config() and main_process():
            save_config(setup.config, run_folder.config)
        return _finish(setup, tracking, resumed=True)


def run_or_go_on(config: AnyConfig) -> RunResult:
    """The run of `config`: begun, gone on with, or read where it has finished.

    Raises DemotuneError where its folder holds a run of another config; what is None was filled in there.
    """
    folder = RunFolder(Path(config.output))
    if not folder.manifest.exists():
        return run(config)
    if differing := differing_fields(folder.read_config(), config):
        raise DemotuneError(
            f"{folder.root} holds another run than the one that is wanted ({', '.join(differing)} differ); move it "
            "away or delete it"
        )
    if folder.finished:
        return read_result(folder)
    return resume(folder.root, sampler=engine_of(config), vllm_python=config.vllm_python)


def _held(folder: RunFolder) -> AbstractContextManager[None]:
    """One lock for all processes of a run; each of them keeps the memory that it has."""
    keep_memory()
    return folder.locked() if main_process() else nullcontext()


def _finish(setup: Setup, tracking: Tracking, *, resumed: bool = False) -> RunResult:
    say_processes(setup)
    estimate = say_forecast(setup)
    try:
        with closing(setup), profiled(setup.config.profile) as profile, tracking.running(setup.config):
            for number in range(setup.config.stages):
                if not run_stage(setup, number) or stopped_by_gate(setup, number):
                    break
                tracking.log_phases()
    except KeyboardInterrupt:
        say(f"stopped; what is done is kept: continue with demotune resume {setup.folder.root}")
        raise
    result = publish_result(setup, estimate, profile)
    show_result(result)
    if main_process():
        if profile is not None:
            states = [stage["phases"] for stage in result.stages]
            show_profile(profile, estimate or estimate_here(setup), states, whole_run=not resumed)
        conclude(result.run_folder)
        if setup.config.push_to_hub is not None:
            _push(result.run_folder, setup.config.push_to_hub, private=setup.config.hub_private_repo)
    wait_for_everyone()
    return result


def _push(run: Path, name: str, *, private: bool) -> None:
    """Push a run that is finished: where the hub is away, the run is a result all the same."""
    try:
        push(run, name, private=private)
    except DemotuneError as error:
        warn(str(error))
