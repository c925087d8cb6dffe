"""Shared by all tests: one thread (tiny models gain nothing from more), no hub, a tokenizer made in a moment."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from micro import letter_tokenizer
from transformers import PreTrainedTokenizerFast

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token per character; see `micro.letter_tokenizer`."""
    return letter_tokenizer()
