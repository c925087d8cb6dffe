"""The model card of a learned reward: what it is, how to use it, what it was trained on."""

from demotune.config.methods import RFTConfig
from demotune.models.reward_facts import RewardFacts
from demotune.runs.file_names import stage_title


def reward_card(config: RFTConfig, stage: int, pairs: int, *, adapter: bool) -> str:
    """README.md of a reward folder, as the hub shows it."""
    library = "peft" if adapter else "transformers"
    auto = "AutoPeftModelForSequenceClassification" if adapter else "AutoModelForSequenceClassification"
    head = "the head's number"
    reward = head if config.reward_bound is None else f"{config.reward_bound:g} * sigmoid({head})"
    seen = "responses that end by themselves only" if config.finished_only else "cut-off responses too"
    template = "the chat template" if config.template is None else f"the template {config.template!r}"
    return f"""---
library_name: {library}
tags: [reward-model, inverse-reinforcement-learning, demotune]
---

# A reward learned from demonstrations

Learned by demotune's RFT (Algorithm 1 of arXiv 2405.17888), {stage_title(stage)}, from {pairs} pairs of a demonstration
and a sample of the policy; no preference label was used.

* Demonstrations: {", ".join(config.data)}
* Start: {config.reward_model or config.model}
* Reward of a response: {reward} at the end-of-turn token. Link: {config.reward_link}.
* Trained on {seen}.
* It compares responses to one prompt; its zero and its scale mean nothing.

The run's summary holds its accuracy on held-out pairs, with intervals, and on pairs of like length.

    demotune score  --reward THIS_FOLDER --data rows.jsonl
    demotune select --reward THIS_FOLDER --data rows.jsonl --top 1000 --output best.jsonl
    demotune sample --reward THIS_FOLDER --best-of 4 --model MODEL --prompt "..."

In {library}, for token ids of prompt and response rendered with {template}:

    from {library} import {auto}
    from transformers import AutoTokenizer
    model = {auto}.from_pretrained("THIS_FOLDER", num_labels=1)
    model.config.pad_token_id = AutoTokenizer.from_pretrained("THIS_FOLDER").pad_token_id
    model(input_ids=ids, attention_mask=mask).logits
"""


def linear_reward_card(model: str, made_by: str, demonstrations: str, pairs: int, facts: RewardFacts) -> str:
    """README.md of the folder of a linear reward."""
    asked = f", after the response the text {facts.question.text!r}" if facts.question else ""
    named = "".join(f"\n    {weight:+.4g} * {name}" for name, weight in facts.features.items())
    besides = f"* To the head's number is added:\n{named}\n\n" if named else ""
    template = "the chat template" if facts.template is None else f"the template {facts.template!r}"
    return f"""---
library_name: transformers
tags: [reward-model, inverse-reinforcement-learning, demotune]
---

# A linear reward learned from demonstrations

Logistic regression on the last hidden state of a frozen model, fitted by {made_by} to {pairs} pairs of responses to one
prompt; no preference label was used. Only the head is new.

* Model: {model}
* Demonstrations: {demonstrations}
* Reads prompt and response, rendered with {template}{asked}; it judges at the last token.
{besides}* It compares responses to one prompt; its zero and its scale mean nothing.

`demotune explain` shows what it looks at.

    demotune score   --reward THIS_FOLDER --data rows.jsonl
    demotune explain THIS_FOLDER --data rows.jsonl
    demotune sample  --reward THIS_FOLDER --best-of 4 --model MODEL --prompt "..."
"""
