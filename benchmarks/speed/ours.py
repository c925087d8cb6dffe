"""demotune's side: one stage by the functions that its phases call, and by the whole command.

One small function a phase. `demotune` leaves out what a phase does beside its work (journals, files, publishing the
model); `demotune-run` is the whole command and reports the seconds that its phases wrote down, files included.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from speed.harness import Watch
from speed.uneven import end_at_random
from speed.work import Work

import demotune
from demotune import SPINConfig
from demotune.common.memory import keep_memory
from demotune.common.processes import this_device
from demotune.models.policy import Policy, attach_adapter, load_policy, lora_config
from demotune.models.reference_logps import pair_logps
from demotune.models.tokenizers import load_tokenizer
from demotune.records import Pair, Response, ScoredPair
from demotune.sampling import SamplingOptions, sample_responses
from demotune.training import drawing
from demotune.training.arguments import training_arguments
from demotune.training.first_value import ExpectedFirstValue
from demotune.training.fit import take_steps
from demotune.training.losses import loss_at_reference
from demotune.training.microbatches import plan_microbatches
from demotune.training.objectives import PairObjective
from demotune.training.trainer import Fit, PhaseTrainer

CHECKPOINTS = Path("checkpoints")
"""In the worker's own folder; none is written."""


def demotune_stage(work: Work, watch: Watch) -> None:
    """Sample, score, train: nothing else is timed."""
    policy = load(work)
    with watch.phase("sample"):
        samples = sample(policy, work, frozenset())
    pairs = [
        Pair(str(row), (*prompt,), Response((*demo,), True), response)
        for row, (prompt, demo, response) in enumerate(zip(work.prompts, work.demos, samples, strict=True))
    ]
    plan = plan_microbatches(
        [len(pair.prompt_ids) + max(len(pair.demo.ids), len(pair.sample.ids)) for pair in pairs],
        batch_size=work.batch,
        accumulation=1,
        epochs=work.epochs,
        steps=None,
        seed=work.seed,
    )
    units = [[pairs[number] for number in unit] for unit in plan.units]
    with watch.phase("score"):
        scored = score(policy, units, work)
    microbatches = [scored[unit] for unit in plan.order]
    with watch.phase("train"):
        train(policy, microbatches, plan.steps, work)
    watch.tokens = {
        "sample": sum(len(response.ids) for response in samples),
        "score": sum(_tokens(pair) for unit in units for pair in unit),
        "train": sum(_tokens(scored.pair) for batch in microbatches for scored in batch),
    }


def demotune_sampler(work: Work, watch: Watch, *, stop_ids: frozenset[int] = frozenset()) -> None:
    """Samples only."""
    policy = load(work)
    if stop_ids:
        end_at_random(policy, *stop_ids)
    with watch.phase("sample"):
        samples = sample(policy, work, stop_ids)
    watch.tokens = {"sample": sum(len(response.ids) for response in samples)}
    watch.facts = {"longest": max(len(r.ids) for r in samples), "shortest": min(len(r.ids) for r in samples)}


def demotune_run(work: Work, watch: Watch) -> None:
    """`demotune spin` on a file of the same rows: the seconds of its phases; nothing ends a sample early."""
    if not work.texts:
        raise SystemExit("prompts were cut to length, so there is no file of texts for a whole run")
    options = drawing.sampling_options
    drawing.sampling_options = lambda setup: dataclasses.replace(options(setup), stop_ids=frozenset())
    rows = Path("rows.jsonl").resolve()
    rows.write_text("".join(json.dumps(row) + "\n" for row in work.texts), encoding="utf-8")
    # It calls what keeps memory itself, as any run does.
    result = demotune.run(config(work, data=(str(rows),), eval_share=0.0))
    phases = result.stages[-1]["phases"]
    names = {"sample": "sample", "score": "reference", "train": "train"}
    watch.seconds = {ours: phases[name]["seconds"] for ours, name in names.items()}
    watch.tokens = work.tokens()


def config(work: Work, **fields: Any) -> SPINConfig:
    """One stage of SPIN with the work's settings."""
    return SPINConfig(
        model=work.model,
        output="run",
        learning_rate=work.learning_rate,
        beta=work.beta,
        per_device_train_batch_size=work.batch,
        epochs_per_stage=work.epochs,
        max_length=max(map(len, work.prompts)) + max(work.new_tokens, *map(len, work.demos)),
        max_new_tokens=work.new_tokens,
        bf16=work.bf16,
        use_peft=work.lora,
        lora_r=work.lora_r,
        lora_alpha=work.lora_alpha,
        seed=work.seed,
        **fields,
    )


def load(work: Work) -> Policy:
    """The start policy, its memory kept as a run does."""
    keep_memory()
    policy = load_policy(Path(work.model), dtype="float32", attn_implementation=None, device=this_device())
    if work.lora:
        policy = attach_adapter(policy, lora_config(work.lora_r, work.lora_alpha, ("all-linear",)), work.seed)
    return policy


def sample(policy: Policy, work: Work, stop_ids: frozenset[int]) -> list[Response]:
    """One response to each prompt, in their order."""
    options = SamplingOptions(max_new_tokens=work.new_tokens, stop_ids=stop_ids, bf16=work.bf16)
    slots = config(work).sample_batch_size
    found = dict(sample_responses(policy, work.prompts, range(len(work.prompts)), work.seed, options, slots=slots))
    return [found[row] for row in range(len(work.prompts))]


def score(policy: Policy, units: list[list[Pair]], work: Work) -> list[list[ScoredPair]]:
    """The reference's numbers, in the micro-batches of training."""
    return [
        [
            ScoredPair(pair, demo, sampled)
            for pair, (demo, sampled) in zip(unit, pair_logps(policy, unit, bf16=work.bf16), strict=True)
        ]
        for unit in units
    ]


def train(policy: Policy, microbatches: list[list[ScoredPair]], steps: int, work: Work) -> None:
    """The steps, first-loss check included."""
    take_steps(make_trainer(policy, microbatches, steps, work))


def make_trainer(policy: Policy, microbatches: list[list[ScoredPair]], steps: int, work: Work) -> PhaseTrainer:
    """The train phase's trainer, without its files."""
    given = Fit(
        model=policy,
        objective=PairObjective(beta=work.beta, link="logistic", sft_weight=0.0),
        microbatches=microbatches,
        steps=steps,
        title="train",
        expected_first=ExpectedFirstValue("loss", loss_at_reference("logistic"), 1e-3 if work.bf16 else 1e-5),
    )
    return PhaseTrainer(
        given,
        args=training_arguments(config(work), CHECKPOINTS, steps, work.seed),
        tokenizer=load_tokenizer(Path(work.model)),
        callbacks=[],
    )


def _tokens(pair: Pair) -> int:
    return 2 * len(pair.prompt_ids) + len(pair.demo.ids) + len(pair.sample.ids)
