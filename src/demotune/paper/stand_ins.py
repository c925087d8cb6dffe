"""What size tiny is made of: random weights, a small trained tokenizer, the shipped rows, and two learned rewards."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from demotune.common.files import publish_folder, read_rows, write_rows
from demotune.common.progress import say

CHAT = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIALS = ["<pad>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
TASK = "arc_challenge"
"""The harness's name of the task whose form the shipped rows get."""
CHOICES = 4


def shipped(name: str) -> str:
    """A file of demonstrations that comes with demotune: support_train or support_heldout."""
    return str(resources.files("demotune") / "cli" / "shipped" / f"{name}.jsonl")


def make_model(folder: Path) -> None:
    """Two layers of 64 units with random weights, and a tokenizer of 1,000 tokens trained on the shipped rows."""
    if (folder / "config.json").is_file():
        return
    import torch  # noqa: PLC0415 (--print of another size needs none)
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: PLC0415
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: PLC0415

    say(f"a model with random weights goes to {folder}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1000, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([said for row in _rows("support_train") for said in _texts(row)], trainer)
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<|end|>", chat_template=CHAT
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(fast),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=fast.eos_token_id,
            pad_token_id=fast.pad_token_id,
        )
    )
    with publish_folder(folder) as unfinished:
        model.save_pretrained(unfinished)
        fast.save_pretrained(unfinished)


def write_preferences(file: Path) -> None:
    """Each held-out row: its own answer is chosen, the answer to the next row's prompt is rejected."""
    if not file.is_file():
        rows = _rows("support_heldout")
        write_rows(
            file,
            ({"prompt": row["prompt"], "chosen": row["completion"], "rejected": other["completion"]}
             for row, other in zip(rows, [*rows[1:], rows[0]], strict=True)),
        )  # fmt: skip


def write_task(folder: Path) -> None:
    """The shipped rows in the form of ARC: a prompt, its own answer among those to three other prompts."""
    for split, name in {"train": "support_train", "test": "support_heldout"}.items():
        file = folder / TASK / f"{split}.jsonl"
        if not file.is_file():
            rows = _rows(name)
            write_rows(file, (_choice(rows, number) for number in range(len(rows))))


def learn_rewards(model: Path, folders: Sequence[Path]) -> None:
    """A reward for each folder, linear in the states of the model: it prefers own answers to those of the next row.

    Each learns from rows of its own. They stand for reward models, and are worth nothing as judges of quality.
    """
    rows = _rows("support_train")
    for number, folder in enumerate(folders):
        if (folder / "config.json").is_file():
            continue
        from demotune.rewards.learn import learn_reward  # noqa: PLC0415

        own = rows[number :: len(folders)]
        answers = [row["completion"][0]["content"] for row in own]
        learn_reward(model, [row["prompt"] for row in own], answers, [*answers[1:], answers[0]], folder, bf16=False)


def _choice(rows: Sequence[dict[str, Any]], number: int) -> dict[str, Any]:
    others = [rows[(number + step) % len(rows)] for step in range(CHOICES)]
    place = number % CHOICES
    answers = [row["completion"][0]["content"] for row in [*others[1 : place + 1], others[0], *others[place + 1 :]]]
    return {
        "id": str(number),
        "question": rows[number]["prompt"][-1]["content"],
        "choices": {"text": answers, "label": list("ABCD")},
        "answerKey": "ABCD"[place],
    }


def _rows(name: str) -> list[dict[str, Any]]:
    return read_rows(Path(shipped(name)))


def _texts(row: dict[str, Any]) -> list[str]:
    return [message["content"] for message in [*row["prompt"], *row["completion"]]]
