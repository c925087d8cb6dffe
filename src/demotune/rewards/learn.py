"""A linear reward from texts: `demotune.learn_reward`."""

from collections.abc import Sequence
from pathlib import Path

from demotune.common.errors import DemotuneError
from demotune.common.machine import computes_in_bf16
from demotune.common.processes import this_device
from demotune.common.progress import track
from demotune.config.rft import FeatureName
from demotune.data import checked_prompt
from demotune.data.rendering import Renderer, RenderError
from demotune.models.policy import load_policy, merged, resolve_model
from demotune.models.question import as_question
from demotune.models.reward import padding_id, save_reward_model
from demotune.models.reward_facts import FACTS
from demotune.models.tokenizers import generation_stop_ids, load_tokenizer
from demotune.records import Demonstration, Message, Pair
from demotune.rewards.card import linear_reward_card
from demotune.rewards.features import FEATURES
from demotune.rewards.linear import Columns, fit_linear_reward, pair_columns
from demotune.rewards.pair_selection import distinct_sides, select_pairs
from demotune.rewards.scalar import ScalarReward


def learn_reward(
    model: str | Path,
    prompts: Sequence[str | Sequence[Message]],
    demonstrations: Sequence[str],
    samples: Sequence[str],
    output: str | Path,
    *,
    question: str | None = None,
    features: Sequence[FeatureName] = (),
    template: str | None = None,
    dtype: str = "float32",
    bf16: bool | None = None,
) -> ScalarReward:
    """The reward that separates each demonstration from the sample at the same place, linear in states of `model`.

    Logistic regression on the frozen model's last hidden state at the end of a response, after `question` where there
    is one, and on named features; the penalty is chosen by cross-validation over prompts. Several samples of a prompt
    are several places with the same prompt and demonstration. Kept in the folder `output`, a classifier that
    `load_reward` loads again.

    Raises DemotuneError for texts that cannot be read, a feature that is unknown or tells nothing apart, fewer than 5
    prompts whose sides differ, and an `output` that is there and no reward.
    """
    if not len(prompts) == len(demonstrations) == len(samples):
        raise DemotuneError(
            f"there are {len(prompts)} prompts, {len(demonstrations)} demonstrations and {len(samples)} samples; give "
            "one of each for every pair"
        )
    _check_features(features)
    _check_output(Path(output))
    folder = resolve_model(str(model))
    tokenizer = load_tokenizer(folder)
    renderer = Renderer(tokenizer, template, generation_stop_ids(folder))
    pairs = [_pair(renderer, row, *of) for row, of in enumerate(zip(prompts, demonstrations, samples, strict=True))]
    pad_id = padding_id(tokenizer, renderer.stop_ids)
    columns = Columns(tuple(features), None if question is None else as_question(tokenizer, question))
    backbone = merged(load_policy(folder, dtype=dtype, attn_implementation=None, device=this_device()))
    with track("states", len(distinct_sides(select_pairs(pairs).pairs)), "responses") as tracker:
        fast = computes_in_bf16(bf16)
        train = pair_columns(backbone, pairs, columns, pad_id=pad_id, bf16=fast, advance=tracker.advance)
    reward = fit_linear_reward(train, None, columns)
    facts = reward.facts(template)
    card = linear_reward_card(str(model), "demotune.learn_reward", "texts in memory", reward.pairs, facts)
    save_reward_model(reward.as_head(backbone, pad_id), tokenizer, facts, Path(output), card)
    return ScalarReward(output, dtype=dtype, bf16=bf16)


def _check_features(features: Sequence[str]) -> None:
    """Raises DemotuneError for one that is unknown, given twice, or the same in all texts."""
    if unknown := set(features) - FEATURES.keys():
        raise DemotuneError(f"there is no feature {', '.join(sorted(unknown))}; known are {', '.join(FEATURES)}")
    if len(set(features)) < len(features):
        raise DemotuneError(f"features names one twice ({', '.join(features)}); name each once")
    if "finished" in features:
        raise DemotuneError("every text counts as finished, so that the feature finished says nothing; leave it out")


def _check_output(folder: Path) -> None:
    """Raises DemotuneError for what would be replaced and is no reward."""
    if folder.exists() and not (folder / FACTS).is_file() and not (folder.is_dir() and not any(folder.iterdir())):
        raise DemotuneError(f"output {folder} is there, and is no reward; name a new folder")


def _pair(renderer: Renderer, row: int, prompt: str | Sequence[Message], demonstration: str, sample: str) -> Pair:
    asked = tuple(checked_prompt(prompt, f"prompts[{row}]"))
    try:
        better, other = (renderer.render(Demonstration(asked, text, "")) for text in (demonstration, sample))
    except RenderError as refusal:
        raise DemotuneError(f"row {row} (prompts[{row}] with its two responses) cannot be read: {refusal}") from refusal
    return Pair(better.key, better.prompt_ids, better.demo, other.demo)
