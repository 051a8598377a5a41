from typing import Any

import pytest
import torch

from narrowgauge.train.amp import amp_dtype, autocast

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("choice", "dtype"),
    [(None, None), ("float32", None), (torch.float32, None), ("bfloat16", torch.bfloat16), (torch.bfloat16,) * 2],
)
def test_names_and_dtypes_are_accepted(choice: Any, dtype: torch.dtype | None) -> None:
    assert amp_dtype(choice) is dtype


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("float16", "dtype: float16 would need a scaled loss and skipped steps; accepted: bfloat16"),
        (torch.float16, "dtype: float16 would need"),
        ("fp8", "dtype: expected float32 or bfloat16, got 'fp8'"),
        (torch.int8, "dtype: expected float32 or bfloat16, got torch.int8"),
    ],
)
def test_other_dtypes_are_refused(choice: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        amp_dtype(choice)


def test_products_inside_are_in_the_dtype() -> None:
    x = torch.ones(2, 2)
    with autocast(torch.bfloat16, CPU):
        assert (x @ x).dtype == torch.bfloat16
    with autocast(None, CPU):
        assert (x @ x).dtype == torch.float32
