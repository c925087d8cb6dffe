"""Rewards by name: the numbers are those of plain transformers, and what is no reward is refused with the fix."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from helpers.rewards import ask, plain_scores, save_classifier, save_reward, turn
from helpers.tiny import save_tiny, tiny_model, tiny_tokenizer, write_rows
from peft import AutoPeftModelForSequenceClassification
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, DebertaV2Config

import demotune
from demotune import DemotuneError, ImplicitReward, IRFTConfig, RFTConfig, ScalarReward, SFTConfig, load_reward, run
from demotune.data.rendering import RenderError
from demotune.models.logprobs import naive_response_logps
from demotune.records import Completion
from demotune.rewards.reward import as_completion

SMALL = {
    "max_length": 128,
    "per_device_train_batch_size": 4,
    "bf16": False,
    "learning_rate": 1e-2,
    "max_new_tokens": 8,
    "samples_per_prompt": 1,
    "epochs_per_stage": 1.0,
}
TEXTS = [("hello", "the answer is one"), ("what is two three?", "two"), ("hello one two", "three " * 9)]


def completions(reward: demotune.rewards.reward.Reward) -> list[Completion]:
    return [as_completion(reward, turn(prompt, response)) for prompt, response in TEXTS]


def chat_ids(tokenizer: object, prompt: str, response: str) -> list[int]:
    """Up to and with the end-of-turn token, which the template follows with a line break."""
    chat = [*ask(prompt), {"role": "assistant", "content": response}]
    text = tokenizer.apply_chat_template(chat, tokenize=False)  # type: ignore[attr-defined]
    return list(tokenizer(text.removesuffix("\n"), add_special_tokens=False)["input_ids"])  # type: ignore[operator]


# Explicit rewards ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pad_is_end", [False, True])
def test_a_scalar_reward_is_what_transformers_computes(tmp_path: Path, pad_is_end: bool) -> None:
    """Uneven lengths, one padded batch there and batches of two here: fp32, to 1e-6."""
    folder = save_reward(tmp_path / "reward", pad_is_end=pad_is_end)
    reward = ScalarReward(folder, bf16=False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    expected = plain_scores(folder, [chat_ids(tokenizer, *texts) for texts in TEXTS])
    assert max(expected) - min(expected) > 0.1  # or this test shows nothing
    assert reward.rewards_of(completions(reward), batch_size=2) == pytest.approx(expected, abs=1e-6)


def test_a_bounded_reward_is_a_share_of_its_bound(tmp_path: Path) -> None:
    folder = save_reward(tmp_path / "reward", bound=5.0)
    heads = torch.tensor(plain_scores(folder, [chat_ids(tiny_tokenizer(), *texts) for texts in TEXTS]))
    reward = ScalarReward(folder, bf16=False)
    assert reward.rewards_of(completions(reward)) == pytest.approx((5 * heads.sigmoid()).tolist(), abs=1e-6)


def test_a_foreign_reward_judges_where_transformers_does(tmp_path: Path) -> None:
    """Trained with its end token as padding, a classifier reads the token before it; that is what it learned."""
    folder = save_classifier(tmp_path / "foreign", 1, pad_token_id=2)
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    rows = [chat_ids(tokenizer, *texts) for texts in TEXTS]
    reward = ScalarReward(folder, bf16=False)
    found = reward.rewards_of(completions(reward))
    assert found == pytest.approx(plain_scores(folder, rows), abs=1e-6)
    assert found == pytest.approx(plain_scores(folder, [row[:-1] for row in rows]), abs=1e-6)


def test_a_foreign_reward_without_padding_gets_one(tmp_path: Path) -> None:
    """Against rows that need no padding, one at a time."""
    folder = save_classifier(tmp_path / "foreign", 1, pad_token_id=None)
    reward = ScalarReward(folder, bf16=False)
    expected = [plain_scores(folder, [chat_ids(tiny_tokenizer(), *texts)])[0] for texts in TEXTS]
    assert reward.rewards_of(completions(reward)) == pytest.approx(expected, abs=1e-6)


def test_an_architecture_with_plain_attention_only(tmp_path: Path) -> None:
    """DeBERTa, of which several public reward models are made: no fused attention, an encoder."""
    config = DebertaV2Config(
        vocab_size=len(tiny_tokenizer()), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, num_labels=1, max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    reward = ScalarReward(tmp_path, bf16=False)
    expected = plain_scores(tmp_path, [chat_ids(tiny_tokenizer(), *texts) for texts in TEXTS[:2]])
    assert reward.rewards_of(completions(reward)[:2]) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(RenderError, match="the reward can read 64"):
        as_completion(reward, turn("hello" * 40, "one"))


def test_its_own_template_goes_with_a_reward(tmp_path: Path) -> None:
    folder = save_reward(tmp_path / "reward", template="Q: {prompt} A: ")
    row = as_completion(load_reward(folder), turn("one", "two"))
    assert tiny_tokenizer().decode(row.prompt_ids) == "Q: one A: "
    assert tiny_tokenizer().decode(row.response.ids) == "two<|im_end|>"
    row = as_completion(load_reward(folder, template="{prompt}\n"), turn("one", "two"))
    assert tiny_tokenizer().decode(row.prompt_ids) == "one\n"


def test_a_response_that_was_cut_off_has_no_end(tmp_path: Path) -> None:
    reward = load_reward(save_reward(tmp_path / "reward"))
    whole, cut = (as_completion(reward, turn("one", "two"), finished=finished) for finished in (True, False))
    assert (*cut.response.ids, 2) == whole.response.ids
    assert (whole.response.finished, cut.response.finished) == (True, False)
    with pytest.raises(RenderError, match="empty response"):
        as_completion(reward, turn("one", ""), finished=False)
    with pytest.raises(RenderError, match=r"over-long: 1\d prompt \+ 4 response tokens, max_length is 9"):
        as_completion(reward, turn("one", "two"), max_length=9)


# Implicit rewards ----------------------------------------------------------------------------------------------------


def naive_reward(policy: str, reference: str, beta: float, rows: Sequence[Completion]) -> list[float]:
    models = [AutoModelForCausalLM.from_pretrained(folder) for folder in (policy, reference)]
    with torch.no_grad():
        logps = [
            [float(naive_response_logps(model, row.prompt_ids, row.response.ids).sum()) for row in rows]
            for model in models
        ]
    return [beta * (logp - ref_logp) for logp, ref_logp in zip(*logps, strict=True)]


def test_an_implicit_reward_is_beta_times_the_log_ratio(tmp_path: Path) -> None:
    """Against one row at a time without padding, by the definition; 1e-4 nats."""
    policy, reference = save_tiny(tmp_path / "policy", seed=1), save_tiny(tmp_path / "reference", seed=0)
    reward = ImplicitReward(policy, reference, 0.3, bf16=False)
    rows = completions(reward)
    counted: list[int] = []
    found = reward.rewards_of(rows, batch_size=2, advance=counted.append)
    assert found == pytest.approx(naive_reward(policy, reference, 0.3, rows), abs=1e-4)
    assert sum(counted) == reward.passes * len(rows)
    assert max(map(abs, found)) > 0.01


def test_a_policy_that_has_not_moved_rewards_nothing(tmp_path: Path) -> None:
    start = save_tiny(tmp_path / "start")
    reward = ImplicitReward(start, start, 0.1, bf16=False)
    assert reward.rewards_of(completions(reward)) == [0.0, 0.0, 0.0]


def test_an_implicit_reward_needs_one_vocabulary_and_a_beta(tmp_path: Path) -> None:
    policy, other = save_tiny(tmp_path / "policy"), save_tiny(tmp_path / "other")
    with pytest.raises(DemotuneError, match=r"beta must be > 0, got 0\.0"):
        ImplicitReward(policy, policy, 0.0)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["four"])
    tokenizer.save_pretrained(other)
    model = tiny_model()
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(other)
    with pytest.raises(DemotuneError, match="has another vocabulary than"):
        ImplicitReward(policy, other, 0.1)


# Runs ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """start/ and rows.jsonl, and an irft run of two stages."""
    folder = tmp_path_factory.mktemp("rewards")
    save_tiny(folder / "start")
    write_rows(folder / "rows.jsonl")
    run(IRFTConfig(output=str(folder / "irft"), beta=0.25, **inputs(folder), **SMALL))
    return folder


def inputs(folder: Path) -> dict[str, object]:
    return {"model": str(folder / "start"), "data": (str(folder / "rows.jsonl"),)}


def test_an_irft_run_has_the_reward_since_its_start_model(runs: Path) -> None:
    reward = load_reward(runs / "irft", bf16=False)
    rows = completions(reward)
    expected = naive_reward(str(runs / "irft" / "model"), str(runs / "start"), 0.25, rows)
    assert reward.rewards_of(rows) == pytest.approx(expected, abs=1e-4)
    assert "0.25 * log" in reward.name


@pytest.mark.parametrize("use_peft", [False, True])
def test_an_rft_run_has_the_reward_in_its_folder(runs: Path, use_peft: bool) -> None:
    """The numbers are those that the lines in the model card give, row by row; 1e-6."""
    output = runs / f"rft-{use_peft}"
    small = {name: value for name, value in SMALL.items() if name != "epochs_per_stage"}
    config = RFTConfig(
        output=str(output), stages=1, finished_only=False, num_generations=2, reward_steps=4, policy_batches=1,
        prompts_per_batch=4, reward_learning_rate=1e-2, use_peft=use_peft, lora_r=2, **inputs(runs), **small,
    )  # fmt: skip
    run(config)
    reward = load_reward(output, bf16=False)
    assert isinstance(reward, ScalarReward)
    rows = completions(reward)
    found = reward.rewards_of(rows)
    assert found == ScalarReward(output / "reward", bf16=False).rewards_of(rows)
    auto = AutoPeftModelForSequenceClassification if use_peft else AutoModelForSequenceClassification
    model = auto.from_pretrained(output / "reward", num_labels=1)
    ids = [torch.tensor([[*row.prompt_ids, *row.response.ids]]) for row in rows]
    with torch.no_grad():
        expected = [float(model(input_ids=row).logits) for row in ids]
    assert max(expected) - min(expected) > 1e-3  # it was trained
    assert found == pytest.approx(expected, abs=1e-6)


def test_a_start_model_that_is_another_one_now_is_refused(runs: Path) -> None:
    shutil.copytree(runs / "irft", runs / "moved")
    config = (runs / "moved" / "run.yaml").read_text()
    other = save_tiny(runs / "other", seed=5)
    (runs / "moved" / "run.yaml").write_text(config.replace(str(runs / "start"), other))
    with pytest.raises(DemotuneError, match="is not what it was when the run began"):
        load_reward(runs / "moved")
    (runs / "moved" / "run.yaml").write_text(config.replace(str(runs / "start"), str(runs / "gone")))
    with pytest.raises(DemotuneError, match=r"needs the run's start model, .*gone"):
        load_reward(runs / "moved")


def test_an_sft_run_is_its_log_ratio(runs: Path) -> None:
    """log pi_SFT / pi_start of each response, row by row by the definition; not for reinforcement learning."""
    small = {name: SMALL[name] for name in ("max_length", "bf16")}
    run(SFTConfig(output=str(runs / "sft"), max_steps=3, learning_rate=1e-2, **inputs(runs), **small))
    reward = load_reward(runs / "sft", bf16=False)
    rows = completions(reward)
    expected = naive_reward(str(runs / "sft" / "model"), str(runs / "start"), 1.0, rows)
    assert max(expected) - min(expected) > 0.1
    assert reward.rewards_of(rows) == pytest.approx(expected, abs=1e-4)
    with pytest.raises(DemotuneError, match=r"sft is an SFT run, .*collapses under reinforcement learning.*sft/model"):
        run(RFTConfig(output=str(runs / "by-sft"), reward_model=str(runs / "sft"), **inputs(runs), **small))
    assert not (runs / "by-sft" / "stages").exists()


def test_an_unfinished_run_says_so(runs: Path) -> None:
    shutil.copytree(runs / "irft", runs / "unfinished")
    (runs / "unfinished" / "summary.json").unlink()
    with pytest.raises(DemotuneError, match=r"is an unfinished run; finish it with: demotune resume .*/unfinished"):
        load_reward(runs / "unfinished")


# What is no reward ---------------------------------------------------------------------------------------------------


def test_a_language_model_is_no_reward(runs: Path) -> None:
    with pytest.raises(DemotuneError, match=r"no sequence classifier.*the run folder of an irft or spin run"):
        load_reward(runs / "start")
    with pytest.raises(DemotuneError, match=rf"give the run folder, {runs / 'irft'}, for its implicit"):
        load_reward(runs / "irft" / "model")


def test_two_labels_are_no_reward(tmp_path: Path) -> None:
    with pytest.raises(DemotuneError, match="has 2 labels; a reward has one number: give a model with one label"):
        load_reward(save_classifier(tmp_path / "two", 2))


def test_a_missing_folder_names_what_was_tried(tmp_path: Path) -> None:
    with pytest.raises(DemotuneError, match=r"nowhere.*check the path or the hub id"):
        load_reward(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DemotuneError, match="empty holds no safetensors file"):
        load_reward(tmp_path / "empty")


def test_no_chat_template_asks_for_one(tmp_path: Path) -> None:
    folder = save_reward(tmp_path / "reward")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(folder)
    with pytest.raises(DemotuneError, match="no chat template; give a prompt template"):
        load_reward(folder)
    with pytest.raises(DemotuneError, match=r"template must contain \{prompt\} once, got 'Q:'"):
        load_reward(folder, template="Q:")
    with pytest.raises(DemotuneError, match=r"a backslash and an n where a line break is meant, .* in bash write"):
        load_reward(folder, template=r"Q: {prompt}\nA:")
    assert load_reward(folder, template="{prompt} ").renderer.prompt_ids(ask("one"))


def test_damaged_weights_are_no_number(tmp_path: Path) -> None:
    folder = save_reward(tmp_path / "reward")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    torch.nn.init.constant_(model.score.weight, float("nan"))
    model.save_pretrained(folder)
    reward = load_reward(folder)
    with pytest.raises(DemotuneError, match="is not finite on 3 of 3 responses"):
        reward.rewards_of(completions(reward))


def test_the_folder_says_what_the_reward_is(tmp_path: Path) -> None:
    """Public names, found without importing torch first."""
    folder = save_reward(tmp_path / "reward", bound=2.0)
    assert json.loads((folder / "reward.json").read_text()) == {
        "link": "logistic",
        "bound": 2.0,
        "template": None,
        "features": {},
    }
    assert load_reward(str(folder)).name == f"reward model {folder}"
    assert {"load_reward", "ScalarReward", "ImplicitReward"} <= set(demotune.__all__)
