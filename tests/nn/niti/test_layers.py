"""Integer layers: exact products, exponents that add, weights that move in codes, and training without a float."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from narrowgauge.nn.niti import IntTensor, NITILinear, NITIReLU, NITISequential, loss_gradient, to_int_tensor
from narrowgauge.nn.niti.layers import MOST_TERMS, integer_product


class NoFloats(TorchDispatchMode):
    """Fails where an operation sees or makes a floating tensor."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, result)):
            if isinstance(leaf, Tensor) and leaf.is_floating_point():
                raise AssertionError(f"{func} with {leaf.dtype}")
        return result


def codes(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(-127, 128, shape, dtype=torch.int8, generator=torch.Generator().manual_seed(seed))


def test_products_are_exact() -> None:
    a, b = codes(7, 2000), codes(5, 2000, seed=1)
    assert torch.equal(integer_product(a, b).double(), a.double() @ b.double().t())
    with pytest.raises(ValueError, match="int32"):
        integer_product(
            torch.zeros(1, MOST_TERMS + 1, dtype=torch.int8), torch.zeros(1, MOST_TERMS + 1, dtype=torch.int8)
        )


def test_values_are_those_of_the_product_up_to_a_code() -> None:
    layer, x = NITILinear(64, 16), IntTensor(codes(9, 64), -5)
    y = layer(x)
    right = x.float() @ IntTensor(layer.weight, int(layer.exponent)).float().t()
    assert float((y.float() - right).abs().max()) <= 2.0**y.exponent
    dx = layer.backward(IntTensor(codes(9, 16, seed=2), 0))
    assert dx.codes.shape == (9, 64)


def test_backward_moves_weights_against_the_gradient_by_few_bits() -> None:
    layer, x, error = NITILinear(32, 8, update_bits=3), IntTensor(codes(20, 32), -7), IntTensor(codes(20, 8, seed=3), 0)
    before = layer.weight.clone().int()
    layer(x)
    dx = layer.backward(error)
    moved = before - layer.weight.int()
    right = error.codes.double().t() @ x.codes.double()
    assert 4 <= int(moved.abs().max()) <= 7
    assert float(torch.cosine_similarity(moved.double().flatten(), right.flatten(), dim=0)) > 0.95
    wanted = error.float() @ IntTensor(before.to(torch.int8), int(layer.exponent)).float()
    assert float((dx.float() - wanted).abs().max()) <= 2.0**dx.exponent


def blobs(count: int, seed: int) -> tuple[IntTensor, Tensor]:
    """Four classes around the corners of a square, in an order that no linear layer can tell apart."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 4, (count,), generator=generator)
    centre = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])[corner]
    x = torch.cat((centre + 0.3 * torch.randn(count, 2, generator=generator), torch.ones(count, 1)), dim=1)
    return to_int_tensor(x), torch.tensor([0, 1, 1, 0])[corner]


def train(update_bits: int, steps: int = 150) -> float:
    """Accuracy on points that were not seen, in percent; integers alone."""
    model = NITISequential(NITILinear(3, 32, update_bits, seed=1), NITIReLU(), NITILinear(32, 2, update_bits, seed=2))
    batches = [blobs(64, seed) for seed in range(steps)]
    test, labels = blobs(500, 10_000)
    with NoFloats():
        for x, y in batches:
            model.backward(loss_gradient(model(x), y))
        model.eval()
        answers = model(test).codes.int().argmax(1)
        return 100 * int((answers == labels).sum()) // 500


def test_exclusive_or_is_learned_without_a_float() -> None:
    assert train(3, steps=0) < 70
    assert train(3) >= 95


def test_floats_would_be_noticed() -> None:
    with NoFloats(), pytest.raises(AssertionError, match="float32"):
        torch.ones(2)


def test_state_is_codes_and_exponents() -> None:
    layer = NITILinear(4, 3)
    state = layer.state_dict()
    assert {name: value.dtype for name, value in state.items()} == {"weight": torch.int8, "exponent": torch.int64}
    other = NITILinear(4, 3, seed=9)
    other.load_state_dict(state)
    x = IntTensor(codes(2, 4), 0)
    assert torch.equal(layer(x).codes, other(x).codes)


def test_calls_that_mean_nothing_are_refused() -> None:
    layer = NITILinear(4, 3)
    with pytest.raises(ValueError, match="update_bits"):
        NITILinear(4, 3, update_bits=0)
    with pytest.raises(TypeError, match=r"x: expected an IntTensor .* got Tensor"):
        NITILinear(4, 4)(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="int8 codes"):
        layer(IntTensor(torch.zeros(2, 5, dtype=torch.int8), 0))
    for backward in (layer.backward, NITIReLU().backward):
        with pytest.raises(RuntimeError, match="forward"):
            backward(IntTensor(torch.zeros(2, 3, dtype=torch.int8), 0))
