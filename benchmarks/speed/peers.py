"""The peers' side: TRL 1.16 as its documentation says, and a loop in plain transformers.

What is the same for all: float32 weights, bf16 autocast where the work says so, AdamW fused, linear schedule, no
activation checkpointing (TRL has it on by default, which costs a third more time), dropout off, the same token ids.

* `trl`: `generate` in batches in arrival order, then DPOTrainer with `precompute_ref_log_probs`. Its tokenisation is
  passed over, because drawn ids rarely survive text; that saves it time. Its reference numbers are those of the
  policy itself before training, which here is the start model.
* `trl-tuned`: the same with glibc's allocator told by its environment to keep memory.
* `trl-online`: OnlineDPOTrainer (trl.experimental). It has no judges any more, and both completions are the policy's
  own. Here `_generate` puts the demonstration in place of the first, and the reward prefers it. So it draws a sample
  from the current policy in every step (two epochs draw twice), and scores by a second copy of the model in every step.
* `naive`: generate in arrival order, a frozen second copy in every step, all logits, padding on the right.
"""

import copy
import os
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from speed.harness import Watch
from speed.uneven import end_at_random
from speed.work import Work, pairs_of
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, get_linear_schedule_with_warmup

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def trl_stage(work: Work, watch: Watch) -> None:
    """generate, then DPOTrainer. Sampling is timed by us, scoring is TRL's own precomputation, training its `train`."""
    from trl import DPOConfig, DPOTrainer  # noqa: PLC0415 - a contestant's process imports only what it needs

    class PreTokenised(DPOTrainer):
        """Takes ids as they are, and says how long the reference's numbers took."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

        def _precompute_ref_logps(self, *arguments: Any) -> Any:
            with watch.phase("score"):
                return super()._precompute_ref_logps(*arguments)

    model = load(work)
    with watch.phase("sample"):
        samples = generate(model, work, work.batch)
    trainer = PreTokenised(
        model=model,
        args=DPOConfig(**arguments(work), precompute_ref_log_probs=True, loss_type=["sigmoid"], max_length=None),
        train_dataset=Dataset.from_list(pairs_of(work, samples)),
        processing_class=AutoTokenizer.from_pretrained(work.model),
        peft_config=lora_of(work),
    )
    with watch.phase("train"):
        trainer.train()
    trained = max(record.get("num_tokens", 0) for record in trainer.state.log_history)
    watch.tokens = {"sample": sum(map(len, samples)), "score": work.tokens()["score"], "train": int(trained)}


def trl_online_stage(work: Work, watch: Watch) -> None:
    """OnlineDPOTrainer with the demonstration as one of its completions; sampling is timed inside its steps."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer  # noqa: PLC0415

    trained = 0

    class AgainstDemonstrations(OnlineDPOTrainer):
        """Rows are named by their number in place of a prompt's text."""

        def _generate(self, model: nn.Module, prompts: list[str], images: Any = None) -> Any:
            nonlocal trained
            rows = [int(number) for number in prompts]
            with watch.phase("sample"):
                samples = generate(self.accelerator.unwrap_model(model), work, len(rows), rows)
            model.train()
            prompt, prompt_mask = _padded([work.prompts[row] for row in rows] * 2, 0, left=True)
            completion, mask = _padded([work.demos[row] for row in rows] + samples, 0)
            trained += int(prompt_mask.sum() + mask.sum())
            return prompt, prompt_mask, completion, mask, None

    trainer = AgainstDemonstrations(
        model=load(work),
        reward_funcs=lambda completions, **_: [float(2 * row < len(completions)) for row in range(len(completions))],
        args=OnlineDPOConfig(**arguments(work), max_new_tokens=work.new_tokens, max_length=4096),
        train_dataset=Dataset.from_list([{"prompt": str(row)} for row in range(len(work.prompts))]),
        processing_class=AutoTokenizer.from_pretrained(work.model),
        peft_config=lora_of(work),
    )
    with watch.phase("train"):
        trainer.train()
    watch.seconds["train"] -= watch.seconds["sample"]
    watch.seconds["score"] = 0.0  # inside its steps
    watch.facts["drawn_tokens"] = work.epochs * work.tokens()["sample"]
    watch.tokens = work.tokens() | {"train": trained}


def naive_stage(work: Work, watch: Watch) -> None:
    """The loop that one writes first. Scoring is a second model's forward in every step, and timed there."""
    policy = load(work)
    with watch.phase("sample"):
        samples = generate(policy, work, work.batch)
    reference = copy.deepcopy(policy).requires_grad_(False).eval()
    if work.lora:
        policy = get_peft_model(policy, lora_of(work))
    policy.train()
    optimizer = torch.optim.AdamW(
        (weight for weight in policy.parameters() if weight.requires_grad),
        lr=work.learning_rate,
        weight_decay=0.0,
        fused=True,
    )
    schedule = get_linear_schedule_with_warmup(optimizer, 0, work.steps)
    rng, trained = random.Random(work.seed), 0
    for _ in range(work.epochs):
        order = rng.sample(range(len(work.prompts)), len(work.prompts))
        for rows in _batches(order, work.batch):
            prompts = [work.prompts[row] for row in rows] * 2
            responses = [work.demos[row] for row in rows] + [samples[row] for row in rows]
            with watch.phase("score"), torch.no_grad():
                before = _naive_logps(reference, prompts, responses, work.bf16)
            with watch.phase("train"):
                demo, sample = (_naive_logps(policy, prompts, responses, work.bf16) - before).chunk(2)
                loss = -F.logsigmoid(work.beta * (demo - sample)).mean()
                loss.backward()
                nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            trained += sum(map(len, prompts)) + sum(map(len, responses))
    watch.tokens = {"sample": sum(map(len, samples)), "score": work.tokens()["score"], "train": trained}


def generate_sampler(batch: int, *, stop_id: int | None = None) -> Callable[[Work, Watch], None]:
    """A contestant that only samples, with `generate` in batches of this size in arrival order."""

    def contestant(work: Work, watch: Watch) -> None:
        model = load(work)
        if stop_id is not None:
            end_at_random(model, stop_id)
        with watch.phase("sample"):
            samples = generate(model, work, batch, stop_id=stop_id)
        watch.tokens = {"sample": sum(map(len, samples))}
        watch.facts = {"longest": max(map(len, samples)), "shortest": min(map(len, samples))}

    return contestant


def load(work: Work) -> Any:
    """As transformers loads it, without end tokens."""
    model = AutoModelForCausalLM.from_pretrained(work.model, dtype=torch.float32).to(DEVICE)
    model.generation_config.eos_token_id = None
    return model


def generate(
    model: Any, work: Work, batch: int, rows: Sequence[int] | None = None, stop_id: int | None = None
) -> list[list[int]]:
    """Responses by `generate`, in the order of `rows` (all without it)."""
    model.eval()
    found: list[list[int]] = []
    for part in _batches(range(len(work.prompts)) if rows is None else rows, batch):
        ids, mask = _padded([work.prompts[row] for row in part], 0, left=True)
        with torch.no_grad(), torch.autocast(DEVICE.type, torch.bfloat16, enabled=work.bf16):
            drawn = model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=work.new_tokens,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                eos_token_id=stop_id,
                pad_token_id=0,
            )[:, ids.shape[1] :]
        for response in drawn.tolist():
            found.append(response[: response.index(stop_id) + 1] if stop_id in response else response)
    return found


def _naive_logps(model: Any, prompts: list[list[int]], responses: list[list[int]], bf16: bool) -> Tensor:
    """log pi(y | x) of each row, (B,): all logits of all positions."""
    ids, mask = _padded([[*prompt, *response] for prompt, response in zip(prompts, responses, strict=True)], 0)
    with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
        logits = model(input_ids=ids, attention_mask=mask).logits
    logps = logits[:, :-1].float().log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    starts = torch.tensor([len(prompt) for prompt in prompts], device=DEVICE)[:, None]
    places = torch.arange(1, ids.shape[1], device=DEVICE)
    return (logps * ((places >= starts) & mask[:, 1:].bool())).sum(-1)


def _padded(rows: Sequence[Sequence[int]], pad: int, *, left: bool = False) -> tuple[Tensor, Tensor]:
    """Token ids (B, T), and the mask that is 1 where a token stands."""
    width = max(map(len, rows))

    def fill(row: Sequence[int], value: int) -> list[int]:
        rest = [value] * (width - len(row))
        return [*rest, *row] if left else [*row, *rest]

    ids = torch.tensor([fill(row, pad) for row in rows], device=DEVICE)
    return ids, torch.tensor([fill([1] * len(row), 0) for row in rows], device=DEVICE)


def _batches(rows: Sequence[int], size: int) -> list[list[int]]:
    return [[*rows[start : start + size]] for start in range(0, len(rows), size)]


def lora_of(work: Work) -> LoraConfig | None:
    """The same adapter as demotune's."""
    if not work.lora:
        return None
    return LoraConfig(
        r=work.lora_r, lora_alpha=work.lora_alpha, target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM"
    )


def arguments(work: Work) -> dict[str, Any]:
    """What TRL's configs share, in the Trainer's words."""
    return {
        "output_dir": "trl",
        "beta": work.beta,
        "per_device_train_batch_size": work.batch,
        "num_train_epochs": work.epochs,
        "learning_rate": work.learning_rate,
        "optim": "adamw_torch_fused",
        "lr_scheduler_type": "linear",
        "max_grad_norm": 1.0,
        "bf16": work.bf16,
        "gradient_checkpointing": False,
        "use_cpu": DEVICE.type == "cpu",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": work.seed,
    }
