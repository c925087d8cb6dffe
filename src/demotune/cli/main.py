"""The commands. Each has its flags from a config, and imports what it needs itself: --help does not wait for torch."""

import io
import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

import demotune
from demotune.cli.flags import COLLECT_UNKNOWN, add_method, command
from demotune.cli.help import ALL, PlainCommand
from demotune.cli.inputs import refuse_missing_inputs
from demotune.cli.overview import Commands
from demotune.common.launches import refuse_launch
from demotune.common.memory import keep_memory
from demotune.common.messages import DEBUG, USER_ERROR, errors_as_messages
from demotune.common.progress import say
from demotune.config import commands, drawing, interactive
from demotune.config.config_files import build_config
from demotune.config.evaluation import EvaluationConfig
from demotune.config.methods import CONFIGS, Method
from demotune.config.paper import PaperConfig
from demotune.data import as_prompt, read_prompt_file
from demotune.runs.folder import RunFolder

CONTEXT: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "token_normalize_func": lambda name: name.replace("_", "-"),  # --learning_rate as in TRL works too
    "max_content_width": 120,
}

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings=CONTEXT,
    help="Learn the reward behind demonstrations, and a better policy with it: SFT, SPIN, IRFT, RFT.",
)


def main() -> None:
    """Entry point."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a character shows its number
    app()


def _debug(value: bool) -> None:
    if value:
        os.environ[DEBUG] = "1"


def _version(value: bool) -> None:
    if value:
        typer.echo(f"demotune {demotune.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show version.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", callback=_debug, help="Show the traceback of an error, too (DEMOTUNE_DEBUG=1).")
    ] = False,
) -> None:
    # Our own messages say what happens; libraries keep to errors unless the user asked for more.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    keep_memory()


def _run(method: Method, config_file: str | None, given: dict[str, Any]) -> None:
    config = build_config(method, config_file, given)
    folder = RunFolder(Path(config.output))
    with errors_as_messages(folder.root):
        refuse_launch()
        folder.refuse_if_taken()
        refuse_missing_inputs(config)
        from demotune.pipeline import run

        run(config)


for _method in CONFIGS:
    add_method(app, _method, partial(_run, _method))


@command(app, commands.ResumeConfig, shared=True)
def _resume(config: commands.ResumeConfig) -> None:
    with errors_as_messages(config.run_folder):
        refuse_launch()
        folder = RunFolder(config.run_folder)
        begun = folder.read_config()  # a folder without a run is refused before torch is imported
        if folder.finished:
            say(f"{folder.root} is finished already; its summary and its page are made again")
        refuse_missing_inputs(begun)
        from demotune.pipeline import resume

        resume(config.run_folder, sampler=config.sampler, vllm_python=config.vllm_python)


@app.command(cls=PlainCommand, context_settings=COLLECT_UNKNOWN)
def estimate(
    ctx: typer.Context,
    method: Annotated[
        Method | None,
        typer.Option(help="[required] Whose flags follow: every flag that demotune METHOD --help-all shows."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="By datasheet: h200, h100, a100, l40s, rtx4090, ... Not given: this machine is measured."),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="For so many processes, each with such a device.")] = 1,
    sharded: Annotated[
        bool, typer.Option("--sharded", help="Gradients and optimizer are spread over the processes (FSDP2).")
    ] = False,
) -> None:
    """Estimate what a run will cost: memory, tokens, operations and time of each phase, and whether it fits."""

    if method is None:
        if ALL in ctx.args:
            typer.echo(ctx.get_help())
            raise typer.Exit
        ctx.fail(f"Missing option --method; give one of {', '.join(CONFIGS)}")

    def act(config_file: str | None, given: dict[str, Any]) -> None:
        config = build_config(method, config_file, {"output": "not written"} | given)
        refuse_missing_inputs(config)
        from demotune.estimation.estimate import estimate
        from demotune.estimation.forecast import Launch

        estimate(config, device, Launch(processes, sharded) if processes > 1 else None)

    flags = typer.Typer(context_settings=CONTEXT, add_completion=False)
    add_method(flags, method, act)
    name = f"{ctx.command_path} --method {method}"
    raise typer.Exit(typer.main.get_command(flags).main(ctx.args, prog_name=name, standalone_mode=False) or 0)


@command(app, interactive.InspectConfig)
def _inspect(config: interactive.InspectConfig) -> None:
    from demotune.cli.inspect import inspect

    inspect(config)


@command(app, interactive.InitConfig)
def _init(config: interactive.InitConfig) -> None:
    from demotune.cli.init import init

    init(config)


@command(app, commands.AdviseConfig)
def _advise(config: commands.AdviseConfig) -> None:
    from demotune.advice.advise import advise
    from demotune.advice.show import show_advice

    show_advice(advise(config))


@command(app, drawing.SampleConfig)
def _sample(config: drawing.SampleConfig) -> None:
    prompts = [as_prompt(text) for text in config.prompt]
    if config.prompts is not None:
        prompts += [prompt for _, prompt in read_prompt_file(config.prompts)]
    from demotune.rewards.answer_journal import journal_beside
    from demotune.rewards.answers import BestOf, answer, show_answers
    from demotune.rewards.load import load_reward

    best = None
    if config.best_of is not None and config.reward is not None:
        reward = load_reward(config.reward, template=config.reward_template, dtype=config.dtype, bf16=config.bf16)
        best = BestOf(config.best_of, reward)
    journal = None if config.output is None else journal_beside(config.output)
    answers = answer(config.model, prompts, config, best_of=best, journal=journal)
    show_answers(prompts, answers, config.output)


@command(app, drawing.ChatConfig)
def _chat(config: drawing.ChatConfig) -> None:
    from demotune.cli.chat import chat

    chat(config)


@command(app, drawing.DistillConfig)
def _distill(config: drawing.DistillConfig) -> None:
    from demotune.cli.distill import distill

    distill(config)


@command(app, commands.ScoreConfig, shared=True)
def _score(config: commands.ScoreConfig) -> None:
    from demotune.rewards.score import score

    score(_load_reward(config), config.data, config, config.output)


@command(app, commands.SelectConfig, shared=True)
def _select(config: commands.SelectConfig) -> None:
    from demotune.rewards.select import Choice, select

    choice = Choice(top=config.top, threshold=config.threshold)
    select(_load_reward(config), config.data, config, choice, config.output)


@command(app, commands.ExplainConfig)
def _explain(config: commands.ExplainConfig) -> None:
    from demotune.rewards.explain import explain_reward

    explain_reward(_load_reward(config), config.data, config, config.output)


def _load_reward(config: commands.RewardReading) -> Any:
    from demotune.rewards.load import load_reward

    return load_reward(config.reward, template=config.template, dtype=config.dtype, bf16=config.bf16)


@command(app, EvaluationConfig, shared=True)
def _evaluate(config: EvaluationConfig) -> None:
    from demotune.evaluation.evaluate import evaluate
    from demotune.evaluation.show import show_evaluation

    found = evaluate(config)
    show_evaluation(found.folder, found.record, found.tasks)


@command(app, interactive.AnnotateConfig)
def _annotate(config: interactive.AnnotateConfig) -> None:
    from demotune.evaluation.annotation.annotate import annotate

    annotate(config)


@command(app, commands.CompareConfig)
def _compare(config: commands.CompareConfig) -> None:
    from demotune.cli.control import train_controls
    from demotune.evaluation.compare import compare, rows_to_compare_on
    from demotune.evaluation.show import show_comparison
    from demotune.runs.file_names import COMPARISON

    given = {run.resolve() for run in config.runs}
    controls = [run for run in (train_controls(config.runs) if config.control else []) if run.resolve() not in given]
    file = None if config.output is None else config.output / COMPARISON
    show_comparison(compare([*config.runs, *controls], on=rows_to_compare_on(config), file=file))


@command(app, commands.SweepConfig)
def _sweep(config: commands.SweepConfig) -> None:
    from demotune.sweep.plan import read_plan

    plan = read_plan(config.sweep_file, config.output)
    for trial in plan.trials:
        refuse_missing_inputs(trial.at_first_model)
    refuse_missing_inputs(plan.comparison)
    if config.print is not None:
        from demotune.sweep.printed import launch_text

        gpus = 1 if config.gpus_per_trial is None else config.gpus_per_trial
        typer.echo(launch_text(plan, config.print, gpus, config.cpus_per_trial), nl=False)
    elif config.estimate:
        from demotune.sweep.estimate import show_estimate

        show_estimate(plan)
    else:
        from demotune.sweep.sweep import sweep

        if sweep(plan, config).unfinished:
            raise typer.Exit(USER_ERROR)


@command(app, PaperConfig)
def _paper(config: PaperConfig) -> None:
    from demotune.cli.paper import make_paper

    make_paper(config)


@command(app, commands.ReportConfig)
def _report(config: commands.ReportConfig) -> None:
    from demotune.conclusion import write_page

    write_page(config.runs, config.output, evaluations=config.evaluation, comparison=config.comparison)


@command(app, commands.PushConfig)
def _push(config: commands.PushConfig) -> None:
    RunFolder(config.run_folder).finished_model()  # a folder without a result is refused before the hub is asked
    from demotune.push import push

    push(config.run_folder, config.name, private=config.private)


@command(app, commands.QuickstartConfig)
def _quickstart(config: commands.QuickstartConfig) -> None:
    from demotune.cli.quickstart import quickstart

    quickstart(config.output)


@command(app, commands.DoctorConfig, shared=True)
def _doctor(_: commands.DoctorConfig) -> None:
    from demotune.cli.doctor import examine

    examine()
