"""The block Hadamard transform: Sylvester's matrix, orthonormal, self-adjoint, the bits of the package's rotation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from narrowgauge.formats.hadamard import rotate
from narrowgauge.nn.qat import hadamard
from narrowgauge.nn.qat.hadamard import largest_block


def sylvester(n: int) -> np.ndarray:
    h = np.ones((1, 1))
    while h.shape[0] < n:
        h = np.block([[h, h], [h, -h]])
    return h / np.sqrt(n)


@pytest.mark.parametrize("n", [2, 16, 128])
def test_it_is_the_sylvester_matrix_and_its_own_inverse(n: int) -> None:
    x = torch.randn(3, 2 * n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = (x.numpy().reshape(3, 2, n) @ sylvester(n)).reshape(3, 2 * n)
    np.testing.assert_allclose(hadamard(x, n).numpy(), expected, atol=2e-6)
    np.testing.assert_allclose(hadamard(hadamard(x, n), n).numpy(), x.numpy(), atol=2e-6)


def test_products_are_invariant() -> None:
    a, b = torch.randn(4, 64, dtype=torch.float64), torch.randn(5, 64, dtype=torch.float64)
    torch.testing.assert_close(hadamard(a, 32) @ hadamard(b, 32).t(), a @ b.t(), rtol=0, atol=1e-5)


def test_float32_has_the_bits_of_the_rotation_of_frozen_layers() -> None:
    x = torch.randn(7, 384, generator=torch.Generator().manual_seed(1))
    assert np.array_equal(hadamard(x, 128).numpy(), rotate(x.numpy(), 128))


def test_narrow_dtypes_are_rounded_once() -> None:
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    assert torch.equal(hadamard(x, 64), hadamard(x.float(), 64).to(torch.bfloat16))


def test_the_gradient_is_the_transform_of_the_gradient() -> None:
    x, g = torch.randn(2, 8, requires_grad=True), torch.randn(2, 8)
    hadamard(x, 8).backward(g)
    assert torch.equal(x.grad, hadamard(g, 8))


def test_blocks_are_checked() -> None:
    for block in (3, 16, -2):
        with pytest.raises(ValueError, match=f"rotate: got {block}"):
            hadamard(torch.zeros(2, 24), block)
    assert [largest_block(n, 128) for n in (768, 100, 7, 64)] == [128, 4, 1, 64]
