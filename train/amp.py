"""Automatic mixed precision: the forward in bfloat16 where torch's list of operations allows it.

Weights, gradients, optimizer and reductions stay as they are; matrix products are computed from bfloat16 copies
(torch.autocast). bfloat16 has float32's range of exponents, so the loss needs no scale. float16 has not: it would need
one, and with it steps that are skipped where a gradient overflows, so that a run's steps would no longer be the ones
that were asked for.
"""

import contextlib

import torch

AMP_DTYPES = ("float32", "bfloat16")
AmpDtype = str | torch.dtype | None


def amp_dtype(choice: AmpDtype) -> torch.dtype | None:
    """The dtype of the forward's matrix products; ``None``: that of the weights (``None`` and ``"float32"``).

    Raises ``ValueError`` for another dtype than :data:`AMP_DTYPES`, which may also be given as ``torch.dtype``.
    """
    name = "float32" if choice is None else str(choice).removeprefix("torch.")
    if name == "float16":
        raise ValueError(
            "dtype: float16 would need a scaled loss and skipped steps; accepted: bfloat16, float32, or a recipe of"
            " narrow formats that scales each operand (narrowgauge.convert)"
        )
    if name not in AMP_DTYPES:
        raise ValueError(f"dtype: expected {' or '.join(AMP_DTYPES)}, got {choice!r}")
    return torch.bfloat16 if name == "bfloat16" else None


def autocast(dtype: torch.dtype | None, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Around a forward and its loss: matrix products in ``dtype``; ``None`` changes nothing."""
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)
