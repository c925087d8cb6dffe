"""Weights in oneDNN's order give the same products, and the layers come back as they were."""

import pytest
import torch
from torch import Tensor, nn

from demotune.sampling.in_process import weights
from demotune.sampling.in_process.weights import reordered_weights


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 40), nn.Linear(40, 8, bias=False))


def plain(model: nn.Module, states: Tensor) -> Tensor:
    for layer in model:
        states = nn.functional.linear(states, layer.weight, layer.bias)
    return states


def reordered(model: nn.Module) -> list[bool]:
    return ["forward" in layer.__dict__ for layer in model]


@pytest.mark.parametrize("shape", [(1, 1, 24), (1, 5, 24), (2, 40, 24), (300, 24)])
@torch.no_grad()
def test_products_are_the_same_to_rounding(model: nn.Module, shape: tuple[int, ...]) -> None:
    states = torch.randn(shape)
    expected = plain(model, states)
    with reordered_weights(model, bf16=False):
        assert reordered(model) == [True, True]
        torch.testing.assert_close(model(states), expected)


def test_calls_with_gradients_keep_them(model: nn.Module) -> None:
    with reordered_weights(model, bf16=False):
        model(torch.randn(3, 24)).sum().backward()
    assert model[0].weight.grad is not None


def test_layers_come_back_when_sampling_fails(model: nn.Module) -> None:
    with pytest.raises(KeyError), reordered_weights(model, bf16=False):
        raise KeyError("inside")
    assert reordered(model) == [False, False]


def test_a_changed_weight_counts_afterwards(model: nn.Module) -> None:
    states = torch.randn(3, 24)
    with reordered_weights(model, bf16=False):
        pass
    with torch.no_grad():
        model[1].weight.zero_()
        assert not model(states).any()


def test_autocast_and_other_types_are_left_alone(model: nn.Module) -> None:
    with reordered_weights(model, bf16=True):
        assert reordered(model) == [False, False]
    with reordered_weights(model.double(), bf16=False):
        assert reordered(model) == [False, False]


def test_no_copies_where_memory_lacks(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "free_bytes", lambda _: 4 * (24 * 40 + 40 * 8))
    with reordered_weights(model, bf16=False):
        assert reordered(model) == [False, False]


def test_a_layer_with_a_forward_of_its_own_keeps_it(model: nn.Module) -> None:
    model[0].forward = lambda states: states[:, :1].expand(-1, 40)  # as accelerate hooks a layer
    with torch.no_grad(), reordered_weights(model, bf16=False):
        assert reordered(model) == [True, True]
        assert model[0](torch.eye(24)).sum() == 40
    assert reordered(model) == [True, False]
