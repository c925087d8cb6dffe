"""What a tokenizer knows: its special tokens, and ids of text with nothing added."""

from collections.abc import Container, Mapping
from itertools import takewhile

from transformers import PreTrainedTokenizerBase


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Ids of the text; no BOS or EOS token is added."""
    return tuple(tokenizer.encode(text, add_special_tokens=False, verbose=False)) if text else ()


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Every special token, by id. Llama 3's <|eot_id|> is special only as an added token, so both lists count."""
    named = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    return named | {i: token.content for i, token in tokenizer.added_tokens_decoder.items() if token.special}


def end_token(
    text: str, tokenizer: PreTrainedTokenizerBase, specials: Mapping[int, str], stop_ids: Container[int]
) -> tuple[int, str] | None:
    """The token at which sampling is to stop, out of what a template writes after an answer.

    It is the first special token; where others follow at once, as in Cohere's <|END_RESPONSE|><|END_OF_TURN_TOKEN|>,
    the first of them that the model stops on, else the last. Other added tokens serve where no token is special.
    """
    added = {i: t.content for i, t in tokenizer.added_tokens_decoder.items() if not t.content.isspace()}
    ids = encode(tokenizer, text)
    for tokens in (specials, added):
        marks = [tokens.get(token_id, "\0") in text for token_id in ids]
        if True in marks:
            first = marks.index(True)
            run = list(takewhile(tokens.__contains__, ids[first:]))
            found = next((token_id for token_id in run if token_id in stop_ids), run[-1])
            return found, tokens[found]
    return None


def ids_of_tokens(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """All ids that stand for a token."""
    ids = frozenset(tokenizer.get_vocab().values())
    # Some tokenizers spell several tokens alike, single bytes among them; then the table has one id of each spelling.
    return ids if len(ids) >= tokenizer.vocab_size else ids | frozenset(range(tokenizer.vocab_size))
