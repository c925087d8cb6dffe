"""Does demotune's time grow with the rows and its memory not? What does a step cost beside its arithmetic?

    python benchmarks/scaling.py --model MODEL                 # 64, 256 and 1024 rows, three turns
    python benchmarks/scaling.py --model MODEL --rows 16 64 --repeats 1

Rows are shipped demonstrations (or --data), repeated, with samples of 8 tokens.

* Seconds per row and peak memory of a stage (sample, score, train for one epoch) by number of rows. The network is a
  random Llama of two layers with MODEL's tokenizer, so that a thousand rows take a minute and what is not arithmetic
  shows.
* Host overhead: the seconds of a training step outside its forward pass, backward pass, clipping and optimizer.
* Start-up: from the start of the process to the first gradient step of `demotune sft` on MODEL itself.
* `demotune --help`, whole process.

Results go to benchmarks/results/scaling.json.
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from speed import first_step, ours
from speed.harness import (
    RESULTS,
    Watch,
    finished,
    machine,
    median_of,
    show_table,
    take_turns,
    whole_seconds,
    work_as_told,
)
from speed.work import PHASES, Work, make_work
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, TrainerCallback

from demotune.common.files import write_json
from demotune.common.machine import package_versions
from demotune.training.trainer import PhaseTrainer

ROWS = (64, 256, 1024)
NEW_TOKENS = 8


def stage_of(rows: int) -> Callable[[Work, Watch], None]:
    """A contestant: the stage on so many rows, those of the work repeated."""

    def contestant(work: Work, watch: Watch) -> None:
        many = dataclasses.replace(
            work,
            model=str(two_layers(Path(work.model), Path("two-layers").resolve())),
            prompts=[work.prompts[row % len(work.prompts)] for row in range(rows)],
            demos=[work.demos[row % len(work.demos)] for row in range(rows)],
        )
        train, inside = ours.train, Inside()

        def watched(policy: Any, microbatches: Any, steps: int, work: Work) -> None:
            trainer = ours.make_trainer(policy, microbatches, steps, work)
            inside.watch(trainer)
            ours.take_steps(trainer)

        ours.train = watched
        try:
            ours.demotune_stage(many, watch)
        finally:
            ours.train = train
        watch.facts = {"rows": rows, "steps": inside.steps, "step_seconds": inside.total, "inside": inside.seconds}

    return contestant


class Inside(TrainerCallback):
    """Seconds of all training steps, and those within forward pass, backward pass, clipping and optimizer.

    A step lasts from the end of the one before it to its own end; the first is left out.
    """

    def __init__(self) -> None:
        self.steps, self.total, self.seconds = 0, 0.0, 0.0
        self._step_ended = self._entered = 0.0
        self._counts = False

    def watch(self, trainer: PhaseTrainer) -> None:
        trainer.add_callback(self)
        trainer.compute_loss = self._timed(trainer.compute_loss)
        trainer.accelerator.backward = self._timed(trainer.accelerator.backward)
        trainer.accelerator.clip_grad_norm_ = self._timed(trainer.accelerator.clip_grad_norm_)

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        self._entered = time.monotonic()

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        self._add(self._entered)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        now = time.monotonic()
        if self._counts:
            self.steps += 1
            self.total += now - self._step_ended
        self._step_ended, self._counts = now, True

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            started = time.monotonic()
            found = function(*arguments, **named)
            self._add(started)
            return found

        return timed

    def _add(self, started: float) -> None:
        if self._counts:
            self.seconds += time.monotonic() - started


def start_up(work: Work, watch: Watch) -> None:
    """SFT up to its first gradient step, in a process of its own."""
    file = Path("rows.jsonl").resolve()
    file.write_text("".join(json.dumps(row) + "\n" for row in work.texts), encoding="utf-8")
    command = [sys.executable, str(Path(first_step.__file__)), work.model, str(file)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    watch.seconds["start"] = float(next(line for line in said.splitlines() if "first step" in line).split()[-2])


def say_help(work: Work, watch: Watch) -> None:
    with watch.phase("start"):
        subprocess.run([sys.executable, "-m", "demotune", "--help"], check=True, capture_output=True)


def main() -> None:
    # Workers are told names of any number of rows.
    asked = [int(name) for name in sys.argv[2:3] if name.isdigit()]
    contestants = {str(rows): stage_of(rows) for rows in asked} | {"start-up": start_up, "help": say_help}
    if work_as_told(contestants, Work.load):
        return
    options = _parse()
    work = make_work(
        options.model,
        options.data,
        options.columns,
        rows=min(options.rows[0], 64),
        prompt_tokens=tuple(options.prompt_tokens),
        demo_tokens=64,
        new_tokens=NEW_TOKENS,
        batch=8,
        epochs=1,
        bf16=False,
    )
    rows = take_turns(__file__, [*map(str, options.rows), "start-up", "help"], options.repeats, work.save)
    summary = summarise(rows)
    show(summary)
    config = {"rows": options.rows, "repeats": options.repeats, "new_tokens": NEW_TOKENS, "batch": 8, "layers": 2}
    results = options.results or RESULTS / "scaling.json"
    write_json(
        results,
        {"config": config, "versions": package_versions(), "machine": machine(), "summary": summary, "rows": rows},
    )
    print(f"kept in {results}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder, a hub id or a GGUF file")
    parser.add_argument("--data", help="rows to use, GSM8K's (question, answer) for example; shipped rows without it")
    parser.add_argument("--columns", help="columns of --data, as prompt=...,response=...")
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--prompt-tokens", type=int, nargs=2, metavar=("LOW", "HIGH"), default=(1, 127))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, help="where to keep results")
    return parser.parse_args()


def two_layers(source: Path, folder: Path) -> Path:
    """A random Llama of two layers of width 64 with the vocabulary of `source`, saved in `folder`."""
    tokenizer = AutoTokenizer.from_pretrained(source)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over turns: by number of rows, then start-up and help."""
    names = finished(rows)
    found: dict[str, Any] = {
        name: {
            "milliseconds_per_row": 1000 * median_of(rows, name, whole_seconds) / int(name),
            **{
                f"{phase}_milliseconds_per_row": 1000
                * median_of(rows, name, lambda row, phase=phase: row["seconds"][phase])
                / int(name)
                for phase in PHASES
            },
            "peak_memory_gib": median_of(rows, name, lambda row: row["peak_memory_gib"]),
            "step_milliseconds": 1000 * median_of(rows, name, lambda row: row["step_seconds"] / row["steps"]),
            "host_milliseconds_per_step": 1000
            * median_of(rows, name, lambda row: (row["step_seconds"] - row["inside"]) / row["steps"]),
            "host_share_of_step": median_of(rows, name, lambda row: 1 - row["inside"] / row["step_seconds"]),
        }
        for name in names
        if name.isdigit()
    }
    for name in ("start-up", "help"):
        seconds = [whole_seconds(row) for row in rows if row["contestant"] == name and "failed" not in row]
        if seconds:
            found[name] = {"seconds": statistics.median(seconds)}
    return found


def show(summary: dict[str, Any]) -> None:
    head = ("rows", "ms/row", *PHASES, "GiB", "ms/step", "of it host", "share")
    lines = [
        (
            name,
            f"{one['milliseconds_per_row']:.1f}",
            *(f"{one[f'{phase}_milliseconds_per_row']:.1f}" for phase in PHASES),
            f"{one['peak_memory_gib']:.2f}",
            f"{one['step_milliseconds']:.1f}",
            f"{one['host_milliseconds_per_step']:.1f}",
            f"{one['host_share_of_step']:.0%}",
        )
        for name, one in summary.items()
        if name.isdigit()
    ]
    print()
    show_table(head, lines)
    for name, what in (("start-up", "process start to first gradient step"), ("help", "demotune --help")):
        if name in summary:
            print(f"{what}: {summary[name]['seconds']:.1f} s")


if __name__ == "__main__":
    main()
