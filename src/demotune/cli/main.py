"""The command line. Every flag of sft, spin, irft and rft is a field of that method's config."""

import inspect
import io
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import demotune
from demotune.cli.flags import NamesAllMissing, flags_of, parameter, what_was_given
from demotune.cli.inputs import (
    read_prompts,
    refuse_missing_data,
    refuse_missing_inputs,
    refuse_missing_model,
    refuse_missing_runs,
    refuse_missing_test_inputs,
)
from demotune.common.allocator import keep_memory
from demotune.common.errors import DemotuneError
from demotune.common.messages import DEBUG, errors_as_messages
from demotune.config.evaluation import EvaluationConfig
from demotune.config.files import build_config, from_fields, refuse_missing_fields, shipped_configs, unknown_field
from demotune.config.limits import check_numbers
from demotune.config.methods import CONFIGS, Method
from demotune.runs.folder import RunFolder

CONTEXT: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "token_normalize_func": lambda name: name.replace("_", "-"),  # --learning_rate as in TRL works too
    "max_content_width": 120,
}
COLLECT_UNKNOWN = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Unknown flags are collected, so that the error can name the nearest field and the methods that have it."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings=CONTEXT,
    help="Learn the reward behind demonstrations, and a better policy with it: SFT, SPIN, IRFT, RFT.",
)

REWARD_HELP = "A run folder of rft, irft or spin, or a reward model with one label (folder or hub id)."
RewardOption = Annotated[str, typer.Option(help=REWARD_HELP)]
DataOption = Annotated[
    list[str], typer.Option(help="Rows: file, folder or hub id, in any format that training reads; repeat for several.")
]
ColumnsOption = Annotated[
    str | None,
    typer.Option(
        help="Which columns to read: prompt=question,response=answer, and rejected, system, tools, … Else detected."
    ),
]
TemplateOption = Annotated[
    str | None, typer.Option(help="Prompt template with {prompt} for the reward. Not given: its own.")
]
MaxLengthOption = Annotated[
    int | None, typer.Option(help="Refuse rows of more tokens. Not given: what the reward can read.", min=2)
]
MaxRowsOption = Annotated[int | None, typer.Option(help="Use only the first N good rows.", min=1)]
BatchSizeOption = Annotated[int, typer.Option(help="Responses scored together.", min=1)]
DtypeOption = Annotated[Literal["float32", "bfloat16"], typer.Option(help="Type in which weights are held.")]
Bf16Option = Annotated[
    bool | None,
    typer.Option(
        "--bf16/--no-bf16",
        help="Compute in bfloat16. Not given: where the hardware has it; --no-bf16 tells finer differences, slower.",
        show_default=False,
    ),
]


def main() -> None:
    """Entry point."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a character shows its number
    app()


def _method_command(method: Method, act: Callable[[str | None, dict[str, Any]], None]) -> Callable[..., None]:
    """A command whose options are the fields of the method's config; `act` takes the config file and what was given."""
    config_class = CONFIGS[method]

    def command(ctx: typer.Context, **given: Any) -> None:
        with errors_as_messages():
            if ctx.args:
                name = ctx.args[0].split("=")[0]
                raise DemotuneError(
                    unknown_field(name.removeprefix("--").removeprefix("no-").replace("-", "_"), method)
                )
            act(given.pop("config"), what_was_given(given))

    config_option = typer.Option(
        "--config",
        help=f"YAML file with fields, or a shipped config: {', '.join(sorted(shipped_configs()))}. Flags override it.",
        rich_help_panel="Model, data, output",
    )
    context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    parameters = [context, parameter("config", str, config_option), *flags_of(config_class)]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__doc__ = config_class.__doc__
    return command


def _run(method: Method, config_file: str | None, given: dict[str, Any]) -> None:
    config = build_config(method, config_file, given)
    folder = RunFolder(Path(config.output))
    with errors_as_messages(folder.root):
        folder.refuse_if_taken()
        refuse_missing_inputs(config)
        from demotune.pipeline import run

        run(config)


for _method in CONFIGS:
    app.command(_method, context_settings=COLLECT_UNKNOWN)(_method_command(_method, partial(_run, _method)))


@app.command(context_settings=COLLECT_UNKNOWN)
def estimate(
    ctx: typer.Context,
    method: Annotated[Method, typer.Option(help="Whose flags follow: every flag of demotune METHOD --help.")],
    device: Annotated[
        str | None,
        typer.Option(help="By datasheet: h200, h100, a100, l40s, rtx4090, ... Not given: this machine is measured."),
    ] = None,
) -> None:
    """Say before a run what it will cost: memory, tokens, operations and time of each phase, and whether it fits."""

    def act(config_file: str | None, given: dict[str, Any]) -> None:
        config = build_config(method, config_file, {"output": "not written"} | given)
        refuse_missing_inputs(config)
        from demotune.estimation.estimate import estimate as estimate_run

        estimate_run(config, device)

    flags = typer.Typer(context_settings=CONTEXT, add_completion=False)
    flags.command(method, context_settings=COLLECT_UNKNOWN)(_method_command(method, act))
    raise typer.Exit(typer.main.get_command(flags).main(ctx.args, standalone_mode=False) or 0)


@app.command()
def resume(run_folder: Annotated[Path, typer.Argument(help="Folder of an interrupted run.")]) -> None:
    """Continue an interrupted run exactly where it stopped."""
    with errors_as_messages(run_folder):
        RunFolder(run_folder).read_config()  # a folder without a run is refused before torch is imported
        from demotune.pipeline import resume as resume_run

        resume_run(run_folder)


@app.command()
def sample(
    model: Annotated[
        str, typer.Option(help="The model: a run folder, a model or adapter folder, a hub id, or a GGUF file.")
    ],
    prompt: Annotated[list[str] | None, typer.Option(help="A prompt; repeat for several.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="File of prompts: .txt with one a line, or data with prompt or messages.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write JSONL here instead of to the screen.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest response, in tokens.", min=1)] = 256,
    temperature: Annotated[float, typer.Option(help="0 is greedy, 1 samples the policy as it is.", min=0)] = 1.0,
    top_p: Annotated[float, typer.Option(help="Sample from the smallest set with this probability; 1 is off.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Sample from the k likeliest tokens; 0 is off.", min=0)] = 0,
    template: Annotated[
        str | None,
        typer.Option(help="Prompt template with {prompt}. Not given: that of the model's run, else its chat template."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same responses.")] = 42,
    batch_size: Annotated[int, typer.Option(help="Prompts sampled together.", min=1)] = 32,
    dtype: DtypeOption = "float32",
    best_of: Annotated[
        int | None, typer.Option(help="Draw N responses to each prompt, keep the one that --reward likes best.", min=1)
    ] = None,
    reward: Annotated[str | None, typer.Option(help=f"For --best-of: {REWARD_HELP}")] = None,
    reward_template: TemplateOption = None,
) -> None:
    """Prompts in, responses out; the same renderer and sampler as in training. With a reward, the best of several."""
    with errors_as_messages():
        check_numbers(
            {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed,
             "batch_size": batch_size}
        )  # fmt: skip
        if not 0 < top_p <= 1:
            raise DemotuneError(f"top_p must be above 0, at most 1, got {top_p}; 1 turns it off")
        if (best_of is None) != (reward is None):
            given, missing = ("--best-of", "--reward R") if reward is None else ("--reward", "--best-of N")
            raise DemotuneError(f"{given} needs {missing}: N responses are drawn, the reward chooses one")
        conversations = read_prompts(prompt or [], prompts)
        for source in (model, *([reward] if reward is not None else [])):
            refuse_missing_model(source)
        from demotune.rewards.answers import BestOf, answer, show_answers
        from demotune.rewards.load import load_reward

        best = None
        if best_of is not None and reward is not None:
            best = BestOf(best_of, load_reward(reward, template=reward_template, dtype=dtype))
        answers = answer(
            model, conversations, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, top_k=top_k,
            template=template, seed=seed, batch_size=batch_size, dtype=dtype, best_of=best,
        )  # fmt: skip
        show_answers(conversations, answers, output)


@app.command(cls=NamesAllMissing)
def score(
    reward: RewardOption,
    data: DataOption,
    output: Annotated[
        Path | None, typer.Option(help="Write each row and its score here, as .jsonl or .jsonl.gz.")
    ] = None,
    columns: ColumnsOption = None,
    template: TemplateOption = None,
    max_length: MaxLengthOption = None,
    max_rows: MaxRowsOption = None,
    batch_size: BatchSizeOption = 16,
    dtype: DtypeOption = "float32",
    bf16: Bf16Option = None,
) -> None:
    """Say what each row earns by a reward; of preference rows, how often the reward agrees with them."""
    with errors_as_messages():
        check_numbers({"max_length": max_length, "max_rows": max_rows, "batch_size": batch_size})
        refuse_missing_data(data)
        refuse_missing_model(reward)
        from demotune.rewards.load import load_reward
        from demotune.rewards.score import Reading
        from demotune.rewards.score import score as score_data

        reading = Reading(columns=columns, max_length=max_length, max_rows=max_rows, batch_size=batch_size)
        score_data(load_reward(reward, template=template, dtype=dtype, bf16=bf16), data, reading, output)


@app.command(cls=NamesAllMissing)
def select(
    reward: RewardOption,
    data: DataOption,
    output: Annotated[Path, typer.Option(help="The rows that are kept, as .jsonl or .jsonl.gz, ready to train on.")],
    top: Annotated[int | None, typer.Option(help="Keep the N rows with the highest scores.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Keep all rows with this score or more.")] = None,
    columns: ColumnsOption = None,
    template: TemplateOption = None,
    max_length: MaxLengthOption = None,
    max_rows: MaxRowsOption = None,
    batch_size: BatchSizeOption = 16,
    dtype: DtypeOption = "float32",
    bf16: Bf16Option = None,
) -> None:
    """Keep the best demonstrations by a reward: one learned here, or any other model with one label."""
    with errors_as_messages():
        check_numbers({"max_length": max_length, "max_rows": max_rows, "batch_size": batch_size})
        refuse_missing_data(data)
        refuse_missing_model(reward)
        from demotune.rewards.load import load_reward
        from demotune.rewards.score import Reading
        from demotune.rewards.select import Choice
        from demotune.rewards.select import select as select_data

        choice = Choice(top=top, threshold=threshold)
        reading = Reading(columns=columns, max_length=max_length, max_rows=max_rows, batch_size=batch_size)
        select_data(load_reward(reward, template=template, dtype=dtype, bf16=bf16), data, reading, choice, output)


def _evaluate_command() -> Callable[..., None]:
    def command(**given: Any) -> None:
        with errors_as_messages():
            fields = what_was_given(given)
            refuse_missing_fields(EvaluationConfig, fields)
            config = from_fields(EvaluationConfig, fields)
            refuse_missing_test_inputs(config)
            from demotune.evaluation.evaluate import evaluate
            from demotune.evaluation.show import show_evaluation

            found = evaluate(config)
            show_evaluation(found.folder, found.record, found.tasks)

    command.__signature__ = inspect.Signature(flags_of(EvaluationConfig))  # type: ignore[attr-defined]
    command.__doc__ = EvaluationConfig.__doc__
    return command


app.command("evaluate")(_evaluate_command())


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Finished runs; those that differ in their seed are one setting.")],
    data: Annotated[
        list[str] | None, typer.Option(help="Test rows to compare on. Not given: the rows that all runs held out.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for comparison.json and what was measured; needed with --data.")
    ] = None,
    control: Annotated[
        Literal["sft"] | None,
        typer.Option(help="Train SFT from each run's start model with its steps and tokens, and compare with it."),
    ] = None,
    columns: ColumnsOption = None,
    max_length: MaxLengthOption = None,
    max_rows: MaxRowsOption = None,
    batch_size: BatchSizeOption = 16,
    bf16: Bf16Option = None,
) -> None:
    """Methods and settings side by side: quality with intervals, corrected p-values, cost; seeds are grouped."""
    with errors_as_messages():
        if data and output is None:
            raise DemotuneError("--data needs --output: what is measured there is kept and used again")
        refuse_missing_runs(runs)
        refuse_missing_data(data or [])
        from demotune.cli.control import train_controls
        from demotune.evaluation.compare import compare as compare_runs
        from demotune.evaluation.show import show_comparison
        from demotune.runs.comparison import write_comparison
        from demotune.runs.names import COMPARISON

        given = {run.resolve() for run in runs}
        controls = [folder for folder in (train_controls(runs) if control else []) if folder.resolve() not in given]
        on = None
        if data:
            on = EvaluationConfig(
                model=str(runs[0]), data=tuple(data), output=str(output), columns=columns, max_length=max_length,
                max_rows=max_rows, batch_size=batch_size, bf16=bf16,
            )  # fmt: skip
        table = compare_runs([*runs, *controls], on=on)
        show_comparison(table)
        if output is not None:
            write_comparison(output / COMPARISON, table)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, finished or not.")],
    evaluation: Annotated[
        list[Path] | None, typer.Option(help="Folder that demotune evaluate wrote; repeat for several.")
    ] = None,
    comparison: Annotated[
        Path | None,
        typer.Option(help="Folder that demotune compare --output wrote. Not given: several runs are compared here."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="The HTML file. Not given: report.html in the run folder; several runs need it.")
    ] = None,
) -> None:
    """One page about one run or several: works offline, with every number's evidence and a browser of samples."""
    with errors_as_messages():
        refuse_missing_runs(runs)
        from demotune.conclusion import write_page

        write_page(runs, output, evaluations=evaluation or [], comparison=comparison)


@app.command()
def doctor() -> None:
    """Show what is installed, which devices there are, and what a run would use."""
    with errors_as_messages():
        from demotune.cli.doctor import examine

        examine()


@app.command()
def quickstart(
    output: Annotated[Path, typer.Option(help="Folder for the two runs.")] = Path("runs/quickstart"),
) -> None:
    """SFT, then IRFT, of SmolLM2-135M on the demonstrations that come with demotune."""
    with errors_as_messages():
        from demotune.cli.quickstart import quickstart as run_quickstart

        run_quickstart(output)


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
