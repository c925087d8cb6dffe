"""Would more SFT still teach something? A short SFT of a small adapter, and what it does to held-out rows."""

import math
import random
from collections.abc import Sequence

import torch
from peft import PeftModel
from torch import nn

from demotune.advice.subject import Subject, spread
from demotune.common.progress import track
from demotune.models.batches import lack_of_memory_explained, pack_sides, to_device
from demotune.models.logprobs import autocast, response_logps
from demotune.models.packing import cut_to_budget
from demotune.models.policy import attach_adapter, lora_config
from demotune.records import RenderedDemonstration
from demotune.training.losses import sft_loss
from demotune.training.setup import derive_seed

MOST_ROWS, ROWS_A_STEP = 128, 8
RATE, WIDTH = 5e-4, 2000
"""The rate of the first step for a model of this width; narrower ones take more, by the root. It falls to 0. With so
few steps of an adapter this moves a model without upsetting it."""
RANK, ALPHA = 16, 32
TOKENS_TOGETHER = 4096


def attach_probe(subject: Subject) -> tuple[PeftModel, int]:
    """The model under an adapter that saw training rows once, and how many; `unload` gives the model back unchanged."""
    rows = spread(subject.train, MOST_ROWS)
    seed = derive_seed(subject.config.seed, 0, "advice probe")
    rows = tuple(random.Random(seed).sample(rows, len(rows)))
    probe = attach_adapter(subject.policy, lora_config(RANK, ALPHA, ("all-linear",)), seed)
    weights = [weight for weight in probe.parameters() if weight.requires_grad]
    steps = [rows[start : start + ROWS_A_STEP] for start in range(0, len(rows), ROWS_A_STEP)]
    width: int = subject.policy.config.get_text_config().hidden_size
    optimizer = torch.optim.AdamW(weights, lr=RATE * math.sqrt(WIDTH / width), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / len(steps))
    with track("short SFT", len(rows), "rows") as tracker, lack_of_memory_explained(ROWS_A_STEP, "--max-length"):
        for own in steps:
            _accumulate(probe, own, bf16=subject.bf16)
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            tracker.advance(len(own))
    return probe, len(rows)


def _accumulate(model: PeftModel, rows: Sequence[RenderedDemonstration], *, bf16: bool) -> None:
    """Gradients of the mean negative log-likelihood per response token, as SFT's."""
    tokens = sum(len(row.demo.ids) for row in rows)
    for part in cut_to_budget(rows, lambda row: row.tokens, TOKENS_TOGETHER):
        batch = to_device(model, pack_sides([(row.prompt_ids, row.demo.ids) for row in part]))
        with autocast(batch["input_ids"].device, bf16):
            scored = response_logps(model, batch)
            loss = sft_loss(scored.logps, scored.mask).sum() / tokens
        loss.backward()  # type: ignore[no-untyped-call]
