"""Rotations in torch: the bits of the definition for every layout, and gradients that are rotations themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from narrowgauge.formats.hadamard import rotate, rotate_back
from narrowgauge.formats.stages import Draw, Rotation
from narrowgauge.nn.stages import rotation
from narrowgauge.nn.stages.rotation import rotated, rotated_back, sign_vector


def same_bits(actual: torch.Tensor, expected: np.ndarray) -> bool:
    return actual.numpy().tobytes() == np.ascontiguousarray(expected).tobytes()


def laid_out(x: torch.Tensor, how: str) -> torch.Tensor:
    """x as it is, column-major, or with gaps."""
    if how == "column-major":
        return x.t().contiguous().t()
    return x.repeat_interleave(2, dim=1)[:, ::2] if how == "gaps" else x


@pytest.mark.parametrize("how", ["row-major", "column-major", "gaps"])
@settings(max_examples=20, deadline=None)
@given(
    rows=st.integers(1, 70), columns=st.integers(1, 150), power=st.integers(1, 7), signed=st.booleans(),
    seed=st.integers(0, 99), chunk=st.sampled_from([64, 1 << 18]),
)  # fmt: skip
def test_rotations_have_the_bits_of_the_definition(
    how: str, rows: int, columns: int, power: int, signed: bool, seed: int, chunk: int
) -> None:
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    x[0, 0] = -0.0
    size, whole = 2**power, rotation.CHUNK_ELEMENTS
    sign = sign_vector(Rotation(size, "fresh"), Draw(seed, 1, 2), x.device) if signed else None
    plain = None if sign is None else sign.numpy()
    rotation.CHUNK_ELEMENTS = chunk
    try:
        turned = rotated(laid_out(x, how), size, sign)
        back = rotated_back(turned, size, sign, columns)
    finally:
        rotation.CHUNK_ELEMENTS = whole
    assert same_bits(turned, rotate(x.numpy(), size, plain))
    assert same_bits(back, rotate_back(turned.numpy(), size, plain, columns))
    assert torch.equal(torch.ops.narrowgauge.rotate(x, size, sign), turned)


@pytest.mark.parametrize("shape", [(0, 8), (3, 0), (64, 0), (2, 3, 24), (16,)])
def test_shapes(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    turned = rotated(x, 16, None)
    assert turned.shape == (*shape[:-1], -(-shape[-1] // 16) * 16)
    torch.testing.assert_close(rotated_back(turned, 16, None, shape[-1]), x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_are_rounded_to_float32_first(dtype: torch.dtype) -> None:
    x = torch.randn(40, 32).to(dtype)
    for given_x in (x, x.t()):
        assert torch.equal(rotated(given_x, 8, None), rotated(given_x.float(), 8, None))


@pytest.mark.parametrize("columns", [32, 41])
def test_gradients_are_those_of_the_linear_map(columns: int) -> None:
    sign = sign_vector(Rotation(16, "fixed"), Draw(), torch.device("cpu"))
    x, width = torch.randn(5, columns, requires_grad=True), -(-columns // 16) * 16
    g = torch.randn(5, width)
    (gradient,) = torch.autograd.grad(rotated(x, 16, sign), x, g)
    matrix = rotated(torch.eye(columns), 16, sign)
    torch.testing.assert_close(gradient, g @ matrix.t())
    y = torch.randn(5, width, requires_grad=True)
    (gradient,) = torch.autograd.grad(rotated_back(y, 16, sign, columns), y, x.detach())
    torch.testing.assert_close(gradient, x.detach() @ matrix)


def test_gradients_have_the_dtype_of_the_input() -> None:
    x = torch.randn(4, 16, dtype=torch.bfloat16, requires_grad=True)
    rotated(x, 16, None).sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16


def test_what_compilers_are_told_is_true() -> None:
    x, sign = torch.randn(40, 24), torch.ones(8)
    for given_x in (x, x.t(), x[::2, 1:], x.bfloat16()):
        for op in (torch.ops.narrowgauge.rotate, torch.ops.narrowgauge.rotate_back):
            torch.library.opcheck(op.default, (given_x.detach().requires_grad_(), 8, sign))


def test_both_operands_of_a_product_share_their_signs() -> None:
    stage, cpu = Rotation(32, "fresh"), torch.device("cpu")
    first, second = (sign_vector(stage, Draw(3, offset, 8), cpu) for offset in (2, 3))
    assert torch.equal(first, second)
    assert not torch.equal(first, sign_vector(stage, Draw(3, 2, 9), cpu))
    assert not torch.equal(first, sign_vector(stage, Draw(4, 2, 8), cpu))
