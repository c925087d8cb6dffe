"""Training for studies: demotune's own runs, kept at several steps, and the KL-regularised control."""

import gc
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

import demotune
from benchmarks.studies.frame import Bench
from benchmarks.studies.measuring import Reader, load, nll_per_token
from benchmarks.studies.world import DEMONSTRATIONS, HELDOUT, PROMPTS, read_examples
from demotune.common.files import publish_folder
from demotune.config.methods import AnyConfig, IRFTConfig, RFTConfig, SFTConfig, as_dict
from demotune.models.batches import pack_sides
from demotune.models.logprobs import packed_arguments
from demotune.models.packing import predictors
from demotune.models.policy import save_policy
from demotune.models.tokenizers import load_tokenizer


@dataclass(frozen=True, slots=True)
class Trained:
    """A model that a seed's folder keeps."""

    model: Path
    seconds: float
    """Processor time of everything that made it."""
    config: Mapping[str, Any]


class _Snapshots(TrainerCallback):
    """Save the policy after some optimizer steps, and note the processor time until each."""

    def __init__(self, folders: Mapping[int, Path], tokenizer: Any) -> None:
        self._folders, self._tokenizer, self._begun = folders, tokenizer, time.process_time()
        self.until: dict[int, float] = {}
        self.ended = self._begun

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step in self._folders and not hasattr(model, "score"):  # a reward model has a score
            self.until[state.global_step] = time.process_time() - self._begun
            save_policy(model, self._tokenizer, self._folders[state.global_step])

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.ended = time.process_time()


def kept(folder: Path, make: Callable[[Path], None]) -> Path:
    """The folder; `make` fills a new one where it is not there."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with publish_folder(folder) as unfinished:
            make(unfinished)
    return folder


def run_method(
    bench: Bench, name: str, config: Callable[..., AnyConfig], fields: Mapping[str, Any], at: Mapping[int, str]
) -> dict[str, Trained]:
    """A run of demotune, kept as `name`; its policies after some steps, by the names in `at`, and at its end, "end".

    The seconds of a policy on the way are those until its step and of the run's end, which every run has.
    """

    def make(folder: Path) -> None:
        output = folder.with_name(f"{folder.name}-run")
        shutil.rmtree(output, ignore_errors=True)
        gc.collect()
        gc.freeze()  # demotune gives memory back between phases, which would look at every object of the libraries
        made, begun = config(**_shared(bench) | fields, output=str(output)), time.process_time()
        snapshots = _Snapshots({step: folder / each for step, each in at.items()}, load_tokenizer(bench.start))
        result = demotune.run(made, callbacks=[snapshots])
        total = time.process_time() - begun
        shutil.copytree(result.model_folder, folder / "end")
        if result.reward_folder is not None:
            shutil.copytree(result.reward_folder, folder / "reward")
        tail = total - (snapshots.ended - begun)
        seconds = {at[step]: until + tail for step, until in snapshots.until.items()} | {"end": total}
        facts = {"seconds": seconds, "config": _without_paths(fields), "whole_config": _without_paths(as_dict(made))}
        (folder / FACTS).write_text(json.dumps(facts), encoding="utf-8")
        shutil.rmtree(output)

    folder = kept(bench.folder / name, make)
    facts = json.loads((folder / FACTS).read_text("utf-8"))
    return {each: Trained(folder / each, seconds, facts["config"]) for each, seconds in facts["seconds"].items()}


PATHS = ("model", "base_model", "reward_model", "prompts", "data", "eval_data", "output")
FACTS = "facts.json"
"""Beside the models of a run: its seconds, what it was given, and its whole config."""


def _without_paths(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key not in PATHS}


def _shared(bench: Bench) -> dict[str, Any]:
    """What all runs have: the same rows held out, a constant rate, and no checkpoints."""
    return {
        "data": (str(bench.folder / DEMONSTRATIONS),),
        "eval_data": (str(bench.folder / HELDOUT),),
        "max_length": 256,
        "lr_scheduler_type": "constant",
        "save_steps": 10**6,
        "logging_steps": 10**6,
        "gate": "off",
        "bf16": bench.world.bf16,
        "seed": bench.seed,
    }


BATCH = 8


def sft(bench: Bench, rate: float, passes: tuple[int, ...], **fields: Any) -> dict[int, Trained]:
    """SFT from the start model at a rate, after each number of passes."""
    rows = len(read_examples(bench.folder / DEMONSTRATIONS))
    steps = -(-rows // BATCH)
    extra = "".join(f"-{key}-{value}" for key, value in sorted(fields.items()))
    found = run_method(
        bench,
        f"sft-{rate:g}{extra}",
        SFTConfig,
        {
            "model": str(bench.start),
            "learning_rate": rate,
            "num_train_epochs": max(passes),
            "per_device_train_batch_size": BATCH,
        }
        | fields,
        {steps * count: str(count) for count in passes},
    )
    return {count: found[str(count)] for count in passes}


def best_by_likelihood(bench: Bench, candidates: Mapping[str, Trained]) -> Trained:
    """The start of the other methods: the SFT model that finds the held-out demonstrations likeliest."""

    def choose() -> Trained:
        reader = Reader.of(bench.world, bench.start)
        heldout = reader.demonstrations(read_examples(bench.folder / HELDOUT))
        found = {name: nll_per_token(load(one.model), heldout, 1.0, reader.bf16) for name, one in candidates.items()}
        return candidates[min(found, key=lambda name: (found[name], name))]

    chosen: Trained = bench.remember(("start", tuple(candidates)), choose)
    return chosen


def irft(bench: Bench, start: Trained, **fields: Any) -> Trained:
    """IRFT from an SFT model."""
    found = run_method(
        bench,
        "irft" + "".join(f"-{key}-{value}" for key, value in sorted(fields.items())),
        IRFTConfig,
        {
            "model": str(start.model),
            "slices": "all",
            "max_new_tokens": bench.world.longest,
            "per_device_train_batch_size": 2 * BATCH,
            "sample_batch_size": 256,
        }
        | fields,
        {},
    )["end"]
    return _after(start, found)


def rft(bench: Bench, name: str, start: Trained, batches: tuple[int, ...], **fields: Any) -> dict[int, Trained]:
    """RFT of one stage from an SFT model on prompts without demonstrations, after each number of policy batches."""
    found = run_method(
        bench,
        name,
        RFTConfig,
        {
            "model": str(start.model),
            "prompts": (str(bench.folder / PROMPTS),),
            "stages": 1,
            "slices": "all",
            "max_new_tokens": bench.world.longest,
            "policy_batches": max(batches),
            "prompts_per_batch": 16,
            "num_generations": 8,
            "per_device_train_batch_size": 128,
            "sample_batch_size": 256,
            "stop_reward_margin": 0,
            "force": True,  # 8 held-out rows seldom show that a reward is better than chance
        }
        | ({"base_model": str(bench.start)} if "base" in fields.get("reward_negatives", ()) else {})
        | fields,
        {count: str(count) for count in batches},
    )
    last = _after(start, found["end"])  # the guards may have stopped it before
    return {count: _after(start, found[str(count)]) if str(count) in found else last for count in batches}


def _after(start: Trained, one: Trained) -> Trained:
    return Trained(one.model, start.seconds + one.seconds, one.config)


def anchored_sft(bench: Bench, rate: float, weight: float, passes: tuple[int, ...]) -> dict[int, Trained]:
    """SFT with weight * KL(start model || policy) at each token of the demonstrations: a plain loop, a control."""

    def make(folder: Path) -> None:
        begun, seconds = time.process_time(), {}
        reader, tokenizer = Reader.of(bench.world, bench.start), load_tokenizer(bench.start)
        rows = reader.demonstrations(read_examples(bench.folder / DEMONSTRATIONS))
        policy, anchor = load(bench.start), load(bench.start)
        optimizer = torch.optim.AdamW(policy.parameters(), lr=rate, weight_decay=0.0)
        rng = np.random.default_rng([bench.seed, 7])
        for number in range(1, max(passes) + 1):
            for members in np.array_split(rng.permutation(len(rows)), -(-len(rows) // BATCH)):
                batch = pack_sides([(rows[row].prompt_ids, rows[row].response.ids) for row in members])
                targets = batch["input_ids"][0][batch["response_slots"][batch["response_mask"]]]
                logps = _token_logps(policy, batch)
                with torch.no_grad():
                    before = _token_logps(anchor, batch)
                kl = (before.exp() * (before - logps)).sum(dim=-1)
                loss = (weight * kl - logps.gather(-1, targets[:, None])[:, 0]).mean()
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
                optimizer.step()
            if number in passes:
                seconds[str(number)] = time.process_time() - begun
                save_policy(policy, tokenizer, folder / str(number))
        (folder / "facts.json").write_text(json.dumps(seconds), encoding="utf-8")

    folder = kept(bench.folder / f"anchored-{rate:g}-{weight:g}", make)
    seconds = json.loads((folder / "facts.json").read_text("utf-8"))
    setting = {"learning_rate": rate, "kl_weight": weight}
    return {count: Trained(folder / str(count), seconds[str(count)], setting) for count in passes}


def _token_logps(policy: Any, batch: Any) -> torch.Tensor:
    """(M, V) of the M response tokens."""
    logits = policy(**packed_arguments(policy, batch), logits_to_keep=predictors(batch)).logits[0]
    found: torch.Tensor = logits.float().log_softmax(dim=-1)
    return found
