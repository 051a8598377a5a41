"""A matrix as packed codes and scales: bytes, what reads back, refusals."""

from __future__ import annotations

import pytest
import torch

from narrowgauge.formats import Scheme, get
from narrowgauge.kernels.tensor import quantize
from narrowgauge.optim.matrix_roots import PAPER_SCHEME
from narrowgauge.optim.stored_matrix import load_matrix, matrix_scheme, store_matrix
from optimizer_steps import gaussian

SCHEMES = ("int4/1x256", "nf4/1x64", "mxfp4", "nvfp4", "e2m3fn/1x32", "int8/row", "e4m3fn/1x128", PAPER_SCHEME)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("shape", [(5, 300), (3, 7), (1, 1), (0, 4)])
def test_a_matrix_reads_back_as_the_scheme_says(scheme: str, shape: tuple[int, int]) -> None:
    x = gaussian(*shape)
    stored = store_matrix(x, scheme, "a")
    assert torch.equal(load_matrix(stored, scheme, "a", shape[1]), quantize(x, scheme).dequantize())


@pytest.mark.parametrize(("scheme", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_plain_values_are_copies(scheme: str, dtype: torch.dtype) -> None:
    x = gaussian(4, 6)
    stored = store_matrix(x, scheme, "a")
    assert stored["a"].dtype is dtype
    assert stored["a"].data_ptr() != x.data_ptr()
    assert torch.equal(load_matrix(stored, scheme, "a", 6), x.to(dtype).float())


@pytest.mark.parametrize(("scheme", "expected"), [
    ("int4/1x256", 0.5 + 4 / 256), (PAPER_SCHEME, 0.5 + 4 / 64), ("mxfp4", 0.5 + 1 / 32), ("int8/1x64", 1 + 4 / 64),
    ("e2m3fn/1x32", 0.75 + 4 / 32), ("bf16", 2.0), ("fp32", 4.0),
])  # fmt: skip
def test_codes_are_packed(scheme: str, expected: float) -> None:
    stored = store_matrix(gaussian(16, 512), scheme, "a")
    assert sum(t.nbytes for t in stored.values()) == expected * 16 * 512


def test_a_scheme_may_be_an_object_and_is_kept_as_text() -> None:
    assert matrix_scheme(Scheme(get("int4"), (1, 256)), "projection") == "int4/1x256"
    assert matrix_scheme("fp32", "projection") == "fp32"


def test_what_it_refuses() -> None:
    with pytest.raises(ValueError, match=r"projection: got 'int44/1x256', accepted are fp32, bf16 and schemes"):
        matrix_scheme("int44/1x256", "projection")
    with pytest.raises(ValueError, match=r"projection: int4/1x256\+sr asks for more"):
        matrix_scheme("int4/1x256+sr", "projection")
    with pytest.raises(TypeError, match="projection: expected fp32, bf16 or a scheme, got int"):
        matrix_scheme(4, "projection")  # type: ignore[arg-type]
