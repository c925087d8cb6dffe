"""The start models of toy worlds before they learn anything, and their tokenizers."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHAT = (
    "{% for message in messages %}{{ message['content'] }}"
    "{{ '=' if message['role'] == 'user' else '<end>' }}{% endfor %}"
)


def make_tokenizer(vocabulary: Mapping[str, int]) -> PreTrainedTokenizerFast:
    """One token a letter; the chat template writes `prompt=response<end>`. No text gives a longer token."""
    tokenizer = Tokenizer(models.WordLevel(dict(vocabulary), unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="<unk>", chat_template=CHAT
    )


def make_model(tokens: int, end_id: int, pad_id: int = 0) -> LlamaForCausalLM:
    """Two layers of 64 units, random."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tokens,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=1024,  # as many as commands read by default; rows have 18
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=end_id,
            pad_token_id=pad_id,
        )
    )


def train_start_model(
    folder: Path,
    vocabulary: Mapping[str, int],
    loss_of: Callable[[LlamaForCausalLM], tuple[Tensor, str]],
    *,
    steps: int,
    rate: float,
) -> None:
    """Make a start model and keep it in `folder`; `loss_of` draws a batch and gives its loss with words for it.

    A plain loop, on purpose without demotune: it makes the world in which methods are compared.
    """
    model = make_model(len(vocabulary), vocabulary["<end>"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        loss, words = loss_of(model)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 250 == 0 or step == steps - 1:
            print(f"{step + 1}/{steps}: {words}", flush=True)
    model.save_pretrained(folder)
    make_tokenizer(vocabulary).save_pretrained(folder)


def token_losses(model: LlamaForCausalLM, ids: Tensor) -> Tensor:
    """(B, T) -> (B, T - 1): cross-entropy of each next token."""
    logits = model(input_ids=ids[:, :-1]).logits.transpose(1, 2)  # (B, V, T - 1)
    return cross_entropy(logits, ids[:, 1:], reduction="none")
