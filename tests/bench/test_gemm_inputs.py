"""Operands: new numbers come into the same memory, unseen; what a result is held to follows them."""

from __future__ import annotations

import pytest
import torch

from narrowgauge.bench.gemm_inputs import Inputs, Operands
from narrowgauge.bench.model_shapes import Problem
from narrowgauge.bench.poison import WrongResult
from narrowgauge.kernels import quantize

PROBLEM = Problem("p", 5, 7, 64)


@pytest.fixture
def inputs() -> Inputs:
    return Inputs(PROBLEM, "cpu", torch.float32, seed=1)


def test_new_numbers_in_the_same_memory(inputs: Inputs) -> None:
    codes, scale = inputs.pair("w", "e4m3fn/row")
    _, factors = inputs.pair("x", "nvfp4")
    held = [inputs.x, inputs.w, codes, scale, factors]
    before = [(tensor.data_ptr(), tensor._version, tensor.clone()) for tensor in held]
    inputs.refill(2)
    for tensor, (place, version, old) in zip(held, before, strict=True):
        assert (tensor.data_ptr(), tensor._version) == (place, version)
        assert not torch.equal(tensor, old)
    expected = quantize(inputs.w, "e4m3fn/row")
    assert torch.equal(codes, expected.codes)
    assert torch.equal(scale, expected.scale)
    assert torch.equal(factors, quantize(inputs.x, "nvfp4").factors())


def test_same_seed_same_numbers(inputs: Inputs) -> None:
    first = inputs.x.clone()
    inputs.refill(2)
    inputs.refill(1)
    assert torch.equal(inputs.x, first)


def test_who_writes_is_found_out_until_the_next_numbers(inputs: Inputs) -> None:
    inputs.guard.remember([inputs.x])
    inputs.x[0, 0] += 1
    with pytest.raises(WrongResult, match="overwrote an operand"):
        inputs.guard.verify([inputs.x])
    inputs.guard.verify([inputs.x])
    inputs.refill(2)
    inputs.guard.remember([inputs.x])
    inputs.guard.verify([inputs.x])


def test_codes_are_made_once(inputs: Inputs) -> None:
    assert inputs.coded("x", "int8/row") is inputs.coded("x", "int8/row")


def test_values_are_those_of_the_codes(inputs: Inputs) -> None:
    q = inputs.coded("x", "mxfp8")
    expected = q.dequantize(torch.float32).double() @ inputs.w.double().t()
    assert torch.equal(inputs.operands("mxfp8", None).product, expected)
    inputs.refill(3)
    assert not torch.equal(inputs.operands("mxfp8", None).product, expected)


def test_product_and_norms() -> None:
    a, b = torch.randn(3, 4), torch.randn(2, 4)
    operands = Operands(lambda: a, lambda: b)
    assert operands.product is operands.product
    assert torch.equal(operands.product, a.double() @ b.double().t())
    torch.testing.assert_close(operands.norms[1], b.double().pow(2).sum(1).sqrt())
