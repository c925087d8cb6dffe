"""Texts to token ids, many in one call of the tokenizer: the same ids as one by one."""

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, cast

from tokenizers import models
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

_OF_EACH_PIECE = frozenset({"ByteLevel", "Digits", "Split", "Sequence"})
"""Pre-tokenizers that see nothing but the piece of text between two added tokens."""


class BatchTokenizer:
    """Ids of texts, with no BOS or EOS token added.

    Byte-level BPE tokenizers, GPT-2's and most since, first cut a text at its added tokens (<|im_start|>), and then
    read each piece for itself. So a piece that many texts share, such as a prompt that also begins prompt with
    response, is tokenised once in a call; and a text in which no special token is spelled has the id of none. Other
    tokenizers read every text as a whole.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, specials: Mapping[int, str]) -> None:
        self._tokenizer = tokenizer
        self._cuts = self._spelled = None
        self._composes = False
        backend = tokenizer.backend_tokenizer if isinstance(tokenizer, PreTrainedTokenizerFast) else None
        if backend is not None and _reads_pieces(backend) and not tokenizer.split_special_tokens:
            self._composes = backend.normalizer is not None
            whole = [token for token in backend.get_added_tokens_decoder().values() if not token.normalized]
            if not any(token.lstrip or token.rstrip or token.single_word for token in whole):
                self._cuts = _any_of((token.content for token in whole), keep=True)
            if _only_spelled(backend, tokenizer.unk_token_id, specials):
                self._spelled = _any_of(chain(specials.values(), map(self._normal, specials.values())))

    def one(self, text: str) -> tuple[int, ...]:
        return self.many([text])[0]

    def many(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        if self._cuts is None:
            return self._whole(texts)
        cut = [self._cuts.split(text) for text in texts]
        pieces = [*dict.fromkeys(chain.from_iterable(cut))]
        ids = dict(zip(pieces, self._whole(pieces), strict=True))
        return [tuple(chain.from_iterable(map(ids.__getitem__, own))) for own in cut]

    def may_hold_specials(self, text: str) -> bool:
        """False where no id of the text can be a special token's, other than that for unknown characters."""
        if self._spelled is None:
            return bool(text)
        return self._spelled.search(text) is not None or self._normal(text) != text

    def _whole(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        if not any(texts):
            return [()] * len(texts)
        options = {"add_special_tokens": False, "return_attention_mask": False, "return_token_type_ids": False}
        found = self._tokenizer([text for text in texts if text], verbose=False, **options)["input_ids"]
        ids = iter(cast(list[list[int]], found))
        return [tuple(next(ids)) if text else () for text in texts]

    def _normal(self, text: str) -> str:
        return unicodedata.normalize("NFC", text) if self._composes and not text.isascii() else text


def _reads_pieces(backend: Any) -> bool:
    """Whether this is byte-level BPE that reads the text between two added tokens whatever stands around it."""
    if not isinstance(backend.model, models.BPE) or backend.model.dropout or backend.pre_tokenizer is None:
        return False
    kinds = set(_types(json.loads(backend.pre_tokenizer.__getstate__())))
    normalizer = backend.normalizer and json.loads(backend.normalizer.__getstate__())["type"]
    return "ByteLevel" in kinds and kinds <= _OF_EACH_PIECE and normalizer in (None, "NFC")


def _only_spelled(backend: Any, unknown_id: int | None, specials: Mapping[int, str]) -> bool:
    """Whether a text has a special token's id only where it holds that token's text.

    The model itself may write the token, since many are in its vocabulary; in its alphabet printable ASCII stands for
    itself.
    """
    alphabet = set(ByteLevel.alphabet())
    unknown = backend.model.unk_token
    return (unknown is None or backend.token_to_id(unknown) == unknown_id) and all(
        backend.model.id_to_token(token_id) in (None, text) and (text.isascii() or not alphabet.issuperset(text))
        for token_id, text in specials.items()
    )


def _types(state: Mapping[str, Any]) -> list[str]:
    return [state["type"], *chain.from_iterable(map(_types, state.get("pretokenizers", ())))]


def _any_of(texts: Iterable[str], *, keep: bool = False) -> re.Pattern[str]:
    """The first of the texts, the longest where several begin; with `keep` a split keeps them."""
    longest_first = sorted({text for text in texts if text}, key=len, reverse=True)
    found = "|".join(map(re.escape, longest_first)) or r"(?!)"
    return re.compile(f"({found})" if keep else found)
