"""What optimizer_step refuses, by the name of the argument."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from narrowgauge.kernels.optimizer_step import OPTIMIZER_STEP
from narrowgauge.kernels.step_rules import ROW_LENGTH
from optimizer_steps import new_state, row, step

BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"rule": "adamm"}, ValueError, "rule: unknown rule 'adamm'; known: adamw, adamw_after"),
    ({"p": [torch.zeros(4, dtype=torch.float64)]}, TypeError, r"p\[0\]: expected dtype float32, .*, got float64"),
    ({"g": [torch.zeros(5)]}, ValueError, r"g\[0\]: expected the shape of p\[0\], \(4,\), got \(5,\)"),
    ({"g": []}, ValueError, r"g: expected 1 tensors \(one for each p\), got 0"),
    ({"g": [torch.zeros(4, device="meta")]}, ValueError, r"g\[0\]: expected the device of p\[0\], cpu, got meta"),
    (
        {"v": [torch.zeros(4, dtype=torch.uint8, device="meta")]},
        ValueError,
        r"v\[0\]: expected the device of p\[0\], cpu",
    ),
    ({"rows": torch.zeros(1, ROW_LENGTH, device="meta")}, ValueError, r"rows: expected the device of p\[0\], cpu, or"),
    ({"m": [torch.zeros(4)]}, ValueError, r"m\[0\]: expected 4 contiguous torch.uint8"),
    ({"v_scale": []}, ValueError, r"v_scale: expected 1 tensors \(one for each p\), got 0"),
    ({"v_scale": [torch.zeros(2, 2)]}, ValueError, r"v\[0\]_scale: expected contiguous torch.float32 \(1, 2\)"),
    ({"m_codec": "coatt"}, ValueError, "unknown codec 'coatt'; nearest: coat"),
    ({"m_codec": ""}, ValueError, "m_codec: the rule adamw has m; expected the name of a codec, got ''"),
    ({"rule": "lion"}, ValueError, "v_codec: the rule lion has no v; expected '', got 'coat'"),
    ({"v_codec": "int4"}, ValueError, "v_codec: 'int4' is of the kind rank-1, which needs the whole tensor"),
    ({"master": "kahan"}, ValueError, "master: got 'kahan', accepted: none, sr, residual"),
    ({"master": "sr"}, TypeError, r"p\[0\]: master 'sr' takes bfloat16 parameters, got float32"),
    ({"residual": [torch.zeros(4)]}, ValueError, "residual: expected 0 tensors"),
    ({"rows": torch.zeros(1, ROW_LENGTH)}, ValueError, r"rows: expected float64 \(1, 15\), got float32 \(1, 15\)"),
    ({"rows": torch.zeros(2, ROW_LENGTH).double()}, ValueError, r"rows: expected float64 \(1, 15\), got float64 \(2"),
]


@pytest.mark.parametrize(("change", "error", "text"), BAD)
def test_arguments_that_cannot_be_meant_are_named(change: dict[str, Any], error: type[Exception], text: str) -> None:
    p = [torch.zeros(4)]
    arguments: dict[str, Any] = {"rule": "adamw", "p": p, "g": [torch.zeros(4)]}
    arguments |= new_state(p, "adamw", ("coat", "coat"))
    arguments |= {"m_codec": "coat", "v_codec": "coat", "master": "none"}
    arguments |= {"rows": torch.tensor([row(1)], dtype=torch.float64), "maximize": False, "skip_nonfinite": False}
    OPTIMIZER_STEP(*arguments.values())
    with pytest.raises(error, match=text):
        OPTIMIZER_STEP(*(arguments | change).values())


def test_residuals_that_do_not_fit_are_named() -> None:
    p = [torch.zeros(4, dtype=torch.bfloat16)]
    state = new_state(p, "sgd", ("bf16", ""), "residual")
    state["residual"] = [torch.zeros(5, dtype=torch.int8)]
    with pytest.raises(ValueError, match=r"residual\[0\]: expected contiguous int8 \(4,\), got int8 \(5,\)"):
        step(p, [torch.zeros(4)], state, [row(1)], "sgd", "bf16", "residual")
