"""The start models of toy worlds before they learn anything, and their tokenizers."""

from collections.abc import Mapping

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
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
