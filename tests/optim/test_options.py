"""Options that all optimizers have."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from narrowgauge.optim import AdamW, Lion


@pytest.mark.parametrize(("options", "error", "text"), [
    ({"master": "fp32"}, ValueError, "master: got 'fp32', accepted are none, sr, residual"),
    ({"master": "sr"}, ValueError, "master: 'sr' takes bfloat16 parameters, and parameter 0"),
    ({"master": "eco:e4m3fn/1x128"}, ValueError, "accepted are none, sr, residual$"),
    ({"nonfinite": "ignore"}, ValueError, "nonfinite: got 'ignore', accepted are propagate, skip, raise"),
    ({"clip_norm": 0.0}, ValueError, "clip_norm: got 0.0, accepted are None and numbers > 0"),
    ({"seed": -1}, ValueError, "seed: got -1, accepted are integers from 0"),
    ({"seed": 0.5}, ValueError, "seed: got 0.5"),
    ({"sate": "coat"}, TypeError, "Lion: unknown options sate; common to all optimizers are state, master"),
    ({"lr": -1.0}, ValueError, "lr: got -1.0"),
])  # fmt: skip
def test_options_that_are_not_accepted_are_named(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Lion([nn.Parameter(torch.ones(3))], **options)


@pytest.mark.parametrize(("options", "text"), [
    ({"capturable": True, "nonfinite": "raise"}, "nonfinite='raise' has to wait"),
    ({"capturable": True, "offload": True}, "offload=True has the step on the host"),
    ({"compiled": True, "state": "int4"}, "compiled: rank-1 codes of v need the whole tensor; leave it False"),
    ({"capturable": True, "state": "int4"}, r"capturable: a step of whole tensors .*rank-1 codes of v"),
])  # fmt: skip
def test_what_cannot_be_captured_or_compiled_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        AdamW([nn.Parameter(torch.ones(3))], **options)


def test_complex_parameters_are_refused() -> None:
    with pytest.raises(TypeError, match=r"has dtype torch.complex64; accepted are torch.float32"):
        Lion([nn.Parameter(torch.ones(3, dtype=torch.complex64))])
