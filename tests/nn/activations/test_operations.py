"""The hand-written gradients are those of autograd, and outputs those of the plain functions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from narrowgauge.nn.activations import operations
from narrowgauge.nn.activations.operations import Operation

R, K = 7, 24


def tensors(*shapes: tuple[int, ...] | None, dtype: torch.dtype = torch.float64) -> list[Tensor | None]:
    generator = torch.Generator().manual_seed(3)
    return [
        None if shape is None else torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        for shape in shapes
    ]


CASES = {
    "rms": (operations.RMSNorm((K,), 1e-5), ((R, K), (K,))),
    "rms without weight": (operations.RMSNorm((K,), 1e-2), ((R, K), None)),
    "rms of two axes": (operations.RMSNorm((3, K), None), ((R, 3, K), (3, K))),
    "llama rms": (operations.LlamaRMSNorm((K,), 1e-6), ((2, R, K), (K,))),
    "layer": (operations.LayerNorm((K,), 1e-5), ((R, K), (K,), (K,))),
    "layer without bias": (operations.LayerNorm((K,), 1e-5), ((R, K), (K,), None)),
    "layer of two axes": (operations.LayerNorm((3, K), 1e-3), ((R, 3, K), None, None)),
    "gelu": (operations.GELU(), ((R, K),)),
    "gelu tanh": (operations.GELU("tanh"), ((R, K),)),
    "silu": (operations.SiLU(), ((R, K),)),
    "swiglu": (operations.SwiGLU(), ((R, K), (R, K))),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_autograd(name: str) -> None:
    operation, shapes = CASES[name]
    inputs = tensors(*shapes)
    leaves = [None if t is None else t.clone().requires_grad_() for t in inputs]
    y = operation(*leaves)
    (grad,) = tensors(tuple(y.shape))
    y.backward(grad)
    actual = operation.gradients(grad, *inputs)
    # The norm of Llama models passes through float32 whatever it is given.
    tolerance = 1e-5 if name == "llama rms" else 1e-12
    assert len(actual) == len(inputs)
    for own, leaf in zip(actual, leaves, strict=True):
        if leaf is None:
            assert own is None
        else:
            torch.testing.assert_close(own, leaf.grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_have_the_bits_of_the_plain_functions(dtype: torch.dtype) -> None:
    x, other, weight, bias = (t for t in tensors((R, K), (R, K), (K,), (K,), dtype=dtype) if t is not None)
    expected: list[tuple[Operation, tuple[Tensor, ...], Tensor]] = [
        (operations.RMSNorm((K,), 1e-5), (x, weight), F.rms_norm(x, (K,), weight, 1e-5)),
        (operations.LayerNorm((K,), 1e-5), (x, weight, bias), F.layer_norm(x, (K,), weight, bias, 1e-5)),
        (operations.GELU("tanh"), (x,), F.gelu(x, approximate="tanh")),
        (operations.SiLU(), (x,), F.silu(x)),
        (operations.SwiGLU(), (x, other), F.silu(x) * other),
    ]
    for operation, inputs, plain in expected:
        assert torch.equal(operation(*inputs), plain), operation


def test_missing_epsilon_is_that_of_the_dtype_inside() -> None:
    x = torch.full((1, K), 1e-4, dtype=torch.bfloat16, requires_grad=True)
    F.rms_norm(x, (K,), None, None).backward(torch.ones(1, K, dtype=torch.bfloat16))
    (dx, _) = operations.RMSNorm((K,), None).gradients(torch.ones(1, K), x.detach().float(), None)
    torch.testing.assert_close(dx, x.grad.float(), rtol=1e-2, atol=0)


def test_only_norms_of_one_axis_are_row_by_row() -> None:
    assert operations.RMSNorm((K,), None).row_by_row
    assert not operations.LayerNorm((3, K), 1e-5).row_by_row
    assert operations.SwiGLU().row_by_row
