"""Shared by all tests: one thread (tiny models gain nothing from more), no hub, a tokenizer made in a moment."""

import gc
import os
from collections.abc import Iterator

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["COLUMNS"] = "160"  # tables are asserted whole, whatever terminal the tests run in

import pytest
import torch
from transformers import PreTrainedTokenizerFast

pytest.register_assert_rewrite("helpers")  # a failed assertion of a helper shows its values
from helpers.micro import letter_tokenizer  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token per character; see `micro.letter_tokenizer`."""
    return letter_tokenizer()


@pytest.fixture(scope="module", autouse=True)
def imports_are_not_collected_again() -> Iterator[None]:
    """A run collects garbage after each phase; looking through every imported object took most of a tiny run's time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def runs_write_no_pages() -> Iterator[None]:
    """A page of 5 MB for each of some hundred tiny runs takes minutes; tests of pages call `conclude` themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("demotune.pipeline.conclude", lambda _: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def rows_are_cached_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests find no rows that earlier ones left in the user's cache, and leave none there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("demotune.data.intake_cache.cache_folder", lambda: tmp_path_factory.getbasetemp() / "cache")
        yield
