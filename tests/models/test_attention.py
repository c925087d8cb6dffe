"""Which models carry layouts: tried on the model itself, through its wrappers, never believed of its name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.micro import ARCHITECTURES, Architecture, Bigram, tiny_lm
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    MistralConfig,
    MistralForCausalLM,
)

from demotune.models import attention
from demotune.models.attention import ATTENTION, BlockCausal, carries_layouts, register_attention
from demotune.models.policy import with_attention

register_attention()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_our_architectures_carry_layouts(architecture: Architecture, dtype: torch.dtype) -> None:
    model = tiny_lm(architecture, attention=ATTENTION, dtype=dtype, dropout=0.5).train()
    assert carries_layouts(model)
    assert model.training


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_another_attention_does_not(implementation: str) -> None:
    assert not carries_layouts(tiny_lm(attention=implementation))


@pytest.mark.parametrize("auto_class", [AutoModelForCausalLM, AutoModelForSequenceClassification])
def test_a_model_loaded_first_of_all_carries_layouts(
    auto_class: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a new process, where nothing has made the attention known yet: a resumed reward phase loads a reward first."""
    auto_class.from_config(tiny_lm("llama").config).save_pretrained(tmp_path)
    monkeypatch.delitem(AttentionInterface._global_mapping, ATTENTION)
    assert carries_layouts(with_attention(auto_class, tmp_path, "float32", None, {}, what="a model"))


def test_a_model_that_is_not_of_transformers_does_not() -> None:
    assert not carries_layouts(Bigram([[0.5, 0.5], [0.5, 0.5]]))


def test_a_sliding_window_does_not_and_switching_the_implementation_counts() -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    with torch.random.fork_rng():
        for window, expected in ((None, True), (2, False)):
            config = MistralConfig(
                vocab_size=9, num_key_value_heads=1, sliding_window=window, attn_implementation=ATTENTION, **sizes
            )
            model = MistralForCausalLM(config).eval()
            assert carries_layouts(model) == expected
    model = tiny_lm(attention=ATTENTION)
    assert carries_layouts(model)
    model.set_attn_implementation("sdpa")
    assert not carries_layouts(model)


def test_a_model_that_lets_sequences_see_each_other_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recurrent layers, and attention that the interface does not reach, behave like this."""

    class OneSequence(BlockCausal):
        def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
            super().__init__([sum(lengths)], device)

    monkeypatch.setattr(attention, "BlockCausal", OneSequence)
    assert not carries_layouts(tiny_lm(attention=ATTENTION))


def test_wrappers_are_looked_through_and_the_probe_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_lm(attention=ATTENTION)
    calls: list[Tensor] = []
    model.base_model.register_forward_pre_hook(
        lambda _, arguments, named: calls.append(named["input_ids"]), with_kwargs=True
    )
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    assert carries_layouts(adapted)
    wrapped = DistributedDataParallel.__new__(DistributedDataParallel)
    torch.nn.Module.__init__(wrapped)
    wrapped.module = adapted
    assert carries_layouts(wrapped)
    assert carries_layouts(model)
    assert len(calls) == 3


def test_block_causal_worked_by_hand() -> None:
    """Zero queries weigh what they see alike: means of the values of the own sequence so far."""
    layout = BlockCausal([2, 3], torch.device("cpu"))
    values = torch.tensor([2.0, 4.0, 10.0, 20.0, 60.0]).view(1, 5, 1)
    found = layout.attend(0, torch.zeros(2, 5, 1), torch.ones(1, 5, 1), values, 1.0)
    assert found.shape == (5, 2, 1)
    assert found[:, 0, 0].tolist() == pytest.approx([2, 3, 10, 15, 30])
    assert found[:, 1, 0].tolist() == pytest.approx([2, 3, 10, 15, 30])
