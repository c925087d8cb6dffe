"""One on-policy step of RFT (draw, score, update) by demotune and by TRL's RLOOTrainer: what each takes.

    python benchmarks/rft_step.py --model MODEL --data GSM8K.jsonl.gz         # 3 turns of 2 steps
    python benchmarks/rft_step.py --model MODEL --quick                       # shipped rows, one small step

A step: 16 prompts x 4 responses of exactly so many tokens, drawn from the policy as it is; their log-probabilities
under policy and start model, their rewards by a second network; one clipped update with leave-one-out advantages.

* `demotune` is `demotune rft` with this reward model, one reward step, and so many on-policy batches. A step is timed
  from the end of the one before it (the first from the start of the policy phase) to its own end: files included.
* `trl` is RLOOTrainer with the same number of steps. It draws all 64 responses at once, and scores them all at once;
  its reward reads text, decoded and tokenised again, so it may see a few tokens more or less. Its prompts' ids are
  handed to it. No response ends early in either. `trl-tuned` has glibc's allocator told to keep memory.

Peak memory counts from the first policy step on, where the system can tell (demotune trained its reward before).
Useful FLOPs per step: drawing, the start model's log-probabilities, the reward (no head), and three times a forward
pass (two with LoRA) for the update; formula in speed/work.py. Results go to benchmarks/results/rft_step.json.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import torch
from speed import peers
from speed.harness import (
    CEILING,
    RESULTS,
    Watch,
    finished,
    forget_peak_memory,
    machine,
    measure_ceiling,
    median_of,
    ratio,
    show_table,
    shown,
    take_turns,
    whole_seconds,
    work_as_told,
)
from speed.work import Size, Work, make_work
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from transformers.utils import logging as transformers_logging

import demotune
from demotune import RFTConfig
from demotune.common.files import read_rows, write_json
from demotune.common.machine import has_fast_bf16, package_versions
from demotune.models.policy import hide_library_bars
from demotune.runs.folder import RunFolder
from demotune.training.phases import sample as sample_room
from demotune.training.rollout_files import ROLLOUTS

BETA = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepWork:
    """Policy steps: `rows` has the prompts of all steps, its batch is the micro-batch, its demonstrations are unused.

    `reward` is a folder with a sequence classifier of one label.
    """

    rows: Work
    reward: str
    prompts_per_step: int
    generations: int
    steps: int

    @staticmethod
    def load(file: Path) -> "StepWork":
        fields = json.loads(file.read_text(encoding="utf-8"))
        return StepWork(**fields | {"rows": Work(**fields["rows"])})

    def save(self, file: Path) -> None:
        """With the reward beside it: the model's body under a random head, as transformers makes it."""
        torch.manual_seed(self.rows.seed)
        transformers_logging.set_verbosity_error()  # that the head is new is the intention
        hide_library_bars()
        folder = file.parent / "reward"
        tokenizer = AutoTokenizer.from_pretrained(self.rows.model)
        reward = AutoModelForSequenceClassification.from_pretrained(self.rows.model, num_labels=1, dtype=torch.float32)
        reward.config.pad_token_id = tokenizer.pad_token_id
        reward.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        fields = dataclasses.asdict(dataclasses.replace(self, reward=str(folder)))
        file.write_text(json.dumps(fields), encoding="utf-8")

    @property
    def responses(self) -> int:
        """Of all steps."""
        return self.steps * self.prompts_per_step * self.generations

    def tokens(self) -> int:
        """Tokens drawn in all steps."""
        return self.responses * self.rows.new_tokens

    def flops(self) -> float:
        """Useful FLOPs of all steps."""
        size, new = Size.of(Path(self.rows.model)), self.rows.new_tokens
        prompts = self.generations * sum(map(len, self.rows.prompts))
        drawn = self.tokens()
        forward = 2.0 * size.body * (prompts + drawn) + 2.0 * size.head * drawn
        sample = forward - 2.0 * size.body * drawn / new  # no pass over the last token
        reward = 2.0 * size.body * (prompts + drawn)
        return sample + forward + reward + (2 if self.rows.lora else 3) * forward


class Steps(TrainerCallback):
    """Seconds of the steps of the last training that it watches, and of what happens before each one's forward pass."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._mark = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._watch.seconds = {"draw": 0.0, "update": 0.0}
        self._watch.facts["peak_counts_from_first_step"] = forget_peak_memory()
        self._mark = time.monotonic()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._add("draw")

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._add("update")

    def _add(self, phase: str) -> None:
        now = time.monotonic()
        self._watch.seconds[phase] += now - self._mark
        self._mark = now


def demotune_steps(work: StepWork, watch: Watch) -> None:
    """`demotune rft` on a file of the same rows; nothing ends a response early."""
    options = sample_room.sampling_options
    sample_room.sampling_options = lambda setup: dataclasses.replace(options(setup), stop_ids=frozenset())
    rows = work.rows
    file = Path("rows.jsonl").resolve()
    file.write_text("".join(json.dumps(row) + "\n" for row in rows.texts), encoding="utf-8")
    result = demotune.run(
        RFTConfig(
            model=rows.model,
            data=(str(file),),
            output="run",
            eval_share=0.0,
            max_length=max(map(len, rows.prompts)) + max(rows.new_tokens, *map(len, rows.demos)),
            max_new_tokens=rows.new_tokens,
            samples_per_prompt=1,
            stages=1,
            reward_model=work.reward,
            reward_steps=1,
            finished_only=False,
            missing_eos_penalty=0.0,
            policy_batches=work.steps,
            prompts_per_batch=work.prompts_per_step,
            num_generations=work.generations,
            per_device_train_batch_size=rows.batch,
            learning_rate=rows.learning_rate,
            beta=BETA,
            bf16=rows.bf16,
            use_peft=rows.lora,
            lora_r=rows.lora_r,
            lora_alpha=rows.lora_alpha,
            seed=rows.seed,
            stop_kl=0.0,
            stop_length_ratio=0.0,
            stop_unfinished=0.0,
            stop_reward_margin=0.0,
        ),
        callbacks=[Steps(watch)],
    )
    batches = sorted((RunFolder(result.run_folder).stage(0) / ROLLOUTS).glob("*.jsonl.gz"))
    watch.tokens = {"draw": sum(len(row["response"]["ids"]) for batch in batches for row in read_rows(batch))}


def trl_steps(work: StepWork, watch: Watch) -> None:
    """RLOOTrainer. Its drawing and scoring happen inside its steps, so they are timed where they are called."""
    from trl import RLOOConfig, RLOOTrainer  # noqa: PLC0415 - a contestant's process imports only what it needs

    rows = work.rows
    tokenizer = AutoTokenizer.from_pretrained(rows.model)
    ids_of = {tokenizer.decode(prompt): prompt for prompt in rows.prompts}
    drawn = 0

    class SameIds(RLOOTrainer):
        """Prompts keep their ids."""

        def _tokenize_prompts(self, prompts: list[str]) -> Any:
            return [ids_of[prompt] for prompt in prompts], None, {}

        def _generate(self, prompts: list[str]) -> Any:
            nonlocal drawn
            found = super()._generate(prompts)
            drawn += sum(map(len, found[1]))
            return found

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            with watch.phase("draw"):
                return super()._generate_and_score_completions(inputs)

    reward = AutoModelForSequenceClassification.from_pretrained(work.reward, dtype=torch.float32)
    accumulation = work.prompts_per_step * work.generations // rows.batch
    arguments = peers.arguments(rows) | {"beta": BETA, "max_steps": work.steps, "num_train_epochs": 1}
    trainer = SameIds(
        model=peers.load(rows),
        reward_funcs=reward.to(peers.DEVICE),
        args=RLOOConfig(
            **arguments,
            gradient_accumulation_steps=accumulation,
            num_generations=work.generations,
            max_completion_length=rows.new_tokens,
        ),
        train_dataset=peers.Dataset.from_list([{"prompt": prompt} for prompt in ids_of]),
        processing_class=tokenizer,
        reward_processing_classes=AutoTokenizer.from_pretrained(work.reward),
        peft_config=peers.lora_of(rows),
    )
    trainer.generation_config.eos_token_id = None
    trainer.eos_token_ids = []
    watch.facts["peak_counts_from_first_step"] = forget_peak_memory()
    with watch.phase("update"):
        trainer.train()
    watch.seconds["update"] -= watch.seconds["draw"]
    watch.tokens = {"draw": drawn}


def ceiling(work: StepWork, watch: Watch) -> None:
    watch.facts["gflops"] = measure_ceiling(work.rows.bf16)


CONTESTANTS = {"demotune": demotune_steps, "trl": trl_steps, "trl-tuned": trl_steps, CEILING: ceiling}


def main() -> None:
    if work_as_told(CONTESTANTS, StepWork.load):
        return
    options = _parse()
    work = _work(options)
    rows = take_turns(__file__, [CEILING, *options.only], options.repeats, work.save)
    for row in rows:
        if "failed" not in row and row["contestant"] != CEILING and row["tokens"]["draw"] != work.tokens():
            raise SystemExit(f"{row['contestant']} drew {row['tokens']['draw']} tokens, not {work.tokens()}")
    summary = summarise(rows, work)
    show(summary, work)
    if results := options.results or (None if options.quick else RESULTS / "rft_step.json"):
        described = {name: value for name, value in work.rows.described().items() if name not in ("tokens", "steps")}
        named = ("prompts_per_step", "generations", "steps")
        kept = {"config": described | {name: getattr(work, name) for name in named} | {"repeats": options.repeats}}
        write_json(
            results, kept | {"versions": package_versions(), "machine": machine(), "summary": summary, "rows": rows}
        )
        print(f"kept in {results}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder, a hub id or a GGUF file")
    parser.add_argument("--data", help="rows to use, GSM8K's (question, answer) for example; shipped rows without it")
    parser.add_argument("--columns", help="columns of --data, as prompt=...,response=...")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[n for n in CONTESTANTS if n != CEILING])
    parser.add_argument("--repeats", type=int, help="turns; 3, quick 1")
    parser.add_argument("--quick", action="store_true", help="one step of 4 prompts x 4 responses of 16 tokens")
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--precision", choices=("bf16", "fp32"), help="bf16 where the hardware has it, if not given")
    parser.add_argument("--prompts", type=int, help="prompts of a step; 16, quick 4")
    parser.add_argument("--steps", type=int, help="policy steps; 2, quick 1")
    parser.add_argument("--new-tokens", type=int, help="tokens of every response; 64, quick 16")
    parser.add_argument(
        "--prompt-tokens",
        type=int,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="64 127; shipped rows 1 127",
    )
    parser.add_argument("--results", type=Path, help="where to keep results")
    options = parser.parse_args()
    options.only = options.only or (["demotune", "trl"] if options.quick else ["demotune", "trl", "trl-tuned"])
    options.repeats = options.repeats or (1 if options.quick else 3)
    return options


def _work(options: argparse.Namespace) -> StepWork:
    prompts, steps, new_tokens = (4, 1, 16) if options.quick else (16, 2, 64)
    prompts, steps = options.prompts or prompts, options.steps or steps
    bf16 = has_fast_bf16(peers.DEVICE) if options.precision is None else options.precision == "bf16"
    rows = make_work(
        options.model,
        options.data,
        options.columns,
        rows=prompts * steps,
        prompt_tokens=tuple(options.prompt_tokens or (64 if options.data else 1, 127)),
        demo_tokens=64,
        new_tokens=options.new_tokens or new_tokens,
        batch=min(8, prompts * 4),
        epochs=1,
        bf16=bf16,
        lora=options.lora,
    )
    if not rows.texts:
        raise SystemExit("too few prompts have the right length, and demotune reads texts; give other --prompt-tokens")
    return StepWork(rows=rows, reward="", prompts_per_step=prompts, generations=4, steps=steps)


def summarise(rows: list[dict[str, Any]], work: StepWork) -> dict[str, Any]:
    """Medians per step of each contestant, and ratios of demotune to each of its peers, turn by turn."""
    top = median_of(rows, CEILING, lambda row: row["gflops"])
    found: dict[str, Any] = {"ceiling_gflops": top}
    for name in finished(rows):
        seconds = median_of(rows, name, whole_seconds)
        gflops = work.flops() / 1e9 / seconds
        found[name] = {
            "seconds_per_step": seconds / work.steps,
            "draw_and_score": median_of(rows, name, lambda row: row["seconds"]["draw"]) / work.steps,
            "update": median_of(rows, name, lambda row: row["seconds"]["update"]) / work.steps,
            "tokens_per_second": work.tokens() / seconds,
            "gflops": gflops,
            "share_of_ceiling": top and gflops / top,
            "peak_memory_gib": median_of(rows, name, lambda row: row["peak_memory_gib"]),
            "demotune_seconds_ratio": ratio(rows, "demotune", name, whole_seconds),
            "demotune_memory_ratio": ratio(rows, "demotune", name, lambda row: row["peak_memory_gib"]),
        }
    return found


def show(summary: dict[str, Any], work: StepWork) -> None:
    print(
        f"\n{work.steps} steps of {work.prompts_per_step} prompts x {work.generations} responses of "
        f"{work.rows.new_tokens} tokens, {'LoRA' if work.rows.lora else 'all weights'}, "
        f"{'bf16 autocast' if work.rows.bf16 else 'float32'}; matrix products "
        f"{shown(summary['ceiling_gflops'], '.0f')} GFLOP/s\n"
    )
    head = (
        "",
        "s/step",
        "draw+score",
        "update",
        "drawn tokens/s",
        "GFLOP/s",
        "of ceiling",
        "GiB",
        "demotune/it",
        "memory",
    )
    lines = [
        (
            name,
            shown(one["seconds_per_step"], ".1f"),
            shown(one["draw_and_score"], ".1f"),
            shown(one["update"], ".1f"),
            shown(one["tokens_per_second"], ".0f"),
            shown(one["gflops"], ".1f"),
            shown(one["share_of_ceiling"], ".0%"),
            shown(one["peak_memory_gib"], ".2f"),
            shown(one["demotune_seconds_ratio"], ".2f"),
            shown(one["demotune_memory_ratio"], ".2f"),
        )
        for name, one in summary.items()
        if isinstance(one, dict)
    ]
    show_table(head, lines)


if __name__ == "__main__":
    main()
