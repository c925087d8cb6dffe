"""Rewards made in a moment: a random head, one from elsewhere, one that counts tokens; and what transformers says."""

from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from demotune.data.rendering import Renderer
from demotune.models.policy import attach_adapter, load_policy, lora_config
from demotune.models.reward import RewardModel, padding_id, reward_from_policy, save_reward_model
from demotune.models.reward_facts import RewardFacts
from demotune.records import Completion, Demonstration
from demotune.rewards.reward import Reward
from helpers.tiny import save_tiny, tiny_model, tiny_tokenizer


def save_reward(
    folder: Path,
    *,
    seed: int = 0,
    pad_is_end: bool = False,
    bound: float | None = None,
    template: str | None = None,
    longest: int = 256,
) -> Path:
    """A scalar reward over the tiny model with a random head, saved as a run saves its own."""
    tokenizer = tiny_tokenizer()
    if pad_is_end:
        tokenizer.pad_token = tokenizer.eos_token
    policy = tiny_model(seed)
    policy.config.max_position_embeddings = longest
    reward = reward_from_policy(policy, padding_id(tokenizer, Renderer(tokenizer, template).stop_ids))
    torch.manual_seed(seed)
    torch.nn.init.normal_(reward.score.weight)
    save_reward_model(reward, tokenizer, RewardFacts("logistic", bound, template), folder, "card")
    return folder


def save_classifier(folder: Path, labels: int, **config: object) -> Path:
    """A sequence classifier from elsewhere: no reward.json, its own padding."""
    model = reward_from_policy(tiny_model(), 0)
    model.score = torch.nn.Linear(16, labels, bias=False)
    model.config.num_labels = labels
    for name, value in config.items():
        setattr(model.config, name, value)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def turn(prompt: str, response: str) -> Demonstration:
    return Demonstration(tuple(ask(prompt)), response, "")


def plain_scores(folder: Path, rows: Sequence[Sequence[int]]) -> list[float]:
    """One padded batch through transformers, as somebody who knows nothing of demotune would do it."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer.pad({"input_ids": [list(row) for row in rows]}, return_tensors="pt", padding_side="right")
    with torch.no_grad():
        return model(**batch).logits.squeeze(-1).tolist()


def with_random_head(model: RewardModel, seed: int = 0) -> RewardModel:
    torch.manual_seed(seed)
    for name, weight in model.named_parameters():
        if name.endswith(("score.weight", "score.modules_to_save.default.weight")):
            nn.init.normal_(weight)
    return model


def adapted_tiny(folder: Path) -> PeftModel:
    save_tiny(folder)
    base = load_policy(folder, dtype="float32", attn_implementation="eager", device=torch.device("cpu"))
    policy = attach_adapter(base, lora_config(4, 8, ("all-linear",)), 0)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    return policy


class Counting(Reward):
    """A reward that is the number of certain tokens in the response, so that scores are known without a model."""

    name, hash, passes = "counting", "0", 1

    def __init__(self, tokens: Sequence[int], longest: int | None = None, renderer: Renderer | None = None) -> None:
        self.renderer = renderer or Renderer(tiny_tokenizer())
        self.tokens, self.longest = tokens, longest
        self.read: list[Completion] = []

    def of(self, completion: Completion) -> float:
        return float(sum(token in self.tokens for token in completion.response.ids))

    def rewards_of(
        self, completions: Sequence[Completion], *, batch_size: int = 16, advance=lambda _: None
    ) -> list[float]:
        self.read = list(completions)
        return [self.of(completion) for completion in completions]


ODD_TOKENS = range(3, 400, 2)
LONG = 100  # a random policy ends a response with a chance of one in 280 a token: three in ten are finished by then
PROMPTS = [tuple(ask(text)) for text in ("hello", "what is one", "three")]
