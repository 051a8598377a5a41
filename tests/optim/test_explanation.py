"""What `explain` says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from narrowgauge.optim import SGD, AdamW, Lion, RMSprop


def test_explain_says_how_each_group_runs() -> None:
    params = [nn.Parameter(torch.ones(300, dtype=torch.bfloat16)) for _ in range(3)]
    groups: list[Any] = [
        {"params": params[:1]}, {"params": params[1:2], "state": ("fp8", "int4")},
        {"params": params[2:], "master": "residual", "state": "log8"},
    ]  # fmt: skip
    explained = AdamW(groups).explain()
    fused, whole, residual = explained.rows
    assert (fused.rule, fused.first, fused.master, fused.bytes_per_parameter) == ("adamw", "coat", "none", 2.125)
    assert fused.runs == "fused, optimizer_step, on cpu"
    assert whole.runs == "whole tensors: rank-1 codes of v need the whole tensor, on cpu"
    assert residual.bytes_per_parameter == pytest.approx(3.047, abs=0.001)
    assert str(explained).splitlines()[1].split()[:4] == ["group", "elements", "rule", "m"]
    assert explained.to_dict()["groups"][0]["elements"] == 300
    without = SGD([nn.Parameter(torch.ones(3))]).explain().rows[0]
    assert (without.first, without.bytes_per_parameter) == ("none", 0)
    assert Lion([nn.Parameter(torch.ones(3))]).explain().rows[0].rule == "lion"
    assert RMSprop([nn.Parameter(torch.ones(3))], momentum=0.5).explain().rows[0].rule == "rmsprop_momentum"
