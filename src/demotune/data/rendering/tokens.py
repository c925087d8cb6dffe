"""What a tokenizer knows: its special tokens, and ids of text with nothing added."""

from transformers import PreTrainedTokenizerBase


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Ids of the text; no BOS or EOS token is added."""
    return tuple(tokenizer.encode(text, add_special_tokens=False, verbose=False)) if text else ()


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Every special token, by id. Llama 3's <|eot_id|> is special only as an added token, so both lists count."""
    named = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    return named | {i: token.content for i, token in tokenizer.added_tokens_decoder.items() if token.special}


def ids_of_tokens(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """All ids that stand for a token."""
    ids = frozenset(tokenizer.get_vocab().values())
    # Some tokenizers spell several tokens alike, single bytes among them; then the table has one id of each spelling.
    return ids if len(ids) >= tokenizer.vocab_size else ids | frozenset(range(tokenizer.vocab_size))
