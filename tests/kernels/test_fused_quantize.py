"""fused_quantize beside the conformance suite: what it equals, its launches, its refusals, compilers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from narrowgauge.kernels.fused_quantize import FUSED_QUANTIZE, fused_quantize
from narrowgauge.kernels.prologues import PROLOGUES
from narrowgauge.kernels.tensor import QuantizedTensor, quantize


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_add_rmsnorm_gives_the_new_residual_stream_and_its_norm() -> None:
    x, other, gain = (
        normal(6, 64, dtype=torch.bfloat16),
        normal(6, 64, seed=1, dtype=torch.bfloat16),
        normal(64, seed=2),
    )
    q, h = fused_quantize(
        x, "e4m3fn/row", prologue="add_rmsnorm", other=other, weight=gain, eps=1e-6, return_values=True
    )
    assert torch.equal(h, x + other)
    alone = fused_quantize(h, "e4m3fn/row", prologue="rmsnorm", weight=gain, eps=1e-6)
    assert torch.equal(q.codes, alone.codes)
    assert torch.equal(q.scale, alone.scale)
    near = torch.nn.functional.rms_norm(h.double(), (64,), gain.double(), 1e-6)
    assert (q.dequantize(torch.float32) - near).abs().max() <= 16.01 * q.scale.max()  # half of the widest step


@pytest.mark.parametrize("name", sorted(PROLOGUES))
@pytest.mark.parametrize("scheme", ["mxfp8", "int8/col", "nvfp4", "e5m2/4x24+sr", "e4m3fn/row:mse"])
def test_codes_are_those_of_the_float32_values(name: str, scheme: str) -> None:
    prologue = PROLOGUES[name]
    x, other = normal(11, 96), normal(11, 96, seed=1) if prologue.takes_other else None
    q, values = fused_quantize(x, scheme, prologue=name, other=other, seed=3, offset=4, return_values=True)
    want = quantize(values if name != "add_rmsnorm" else _norm(values), scheme, 3, offset=4)
    assert torch.equal(q.codes, want.codes)
    assert torch.equal(q.scale, want.scale)
    assert torch.equal(q.outer, want.outer)


def _norm(h: Tensor) -> Tensor:
    return torch.from_numpy(PROLOGUES["rmsnorm"].define(h.numpy(), None, None, 1e-5))


@pytest.mark.parametrize("blocks", [1, 3])
def test_blocks_of_rows_give_the_codes_of_the_whole(blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = normal(41, 48)
    calls = {
        scheme: (x, None, None, "gelu", scheme, 5, 6, 1e-5, True)
        for scheme in ("rf8/row+sr", "int8/4x24+sr", "mx6", "nf4/1x32")
    }
    whole = {scheme: FUSED_QUANTIZE(*call) for scheme, call in calls.items()}
    monkeypatch.setattr("narrowgauge.kernels._fused_quantize_torch.BLOCK_ELEMENTS", blocks * 48)
    monkeypatch.setattr("narrowgauge.kernels._fused_quantize_torch.FUNCTION_ELEMENTS", 7)
    for scheme, call in calls.items():
        assert all(torch.equal(a, b) for a, b in zip(FUSED_QUANTIZE(*call), whole[scheme], strict=True)), scheme


@pytest.mark.parametrize("name", ["rmsnorm", "add_rmsnorm", "silu_mul"])
@pytest.mark.parametrize("scheme", ["e4m3fn/row", "mxfp8", "nvfp4"])
def test_rows_longer_than_a_program_holds(name: str, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for where in ("_fused_quantize_plan.HELD", "_fused_quantize_plan.LOOPED", "_fused_quantize_triton.LOOPED"):
        monkeypatch.setattr(f"narrowgauge.kernels.{where}", 64)
    x, other = normal(5, 200, dtype=torch.bfloat16), normal(5, 200, seed=1, dtype=torch.bfloat16)
    call = (x, other if PROLOGUES[name].takes_other else None, None, name, scheme, 0, 0, 1e-5, True)
    for a, b in zip(FUSED_QUANTIZE.implementation("triton")(*call), FUSED_QUANTIZE.reference(*call), strict=True):
        assert torch.equal(a, b)


def test_values_are_made_only_when_asked_for() -> None:
    q = fused_quantize(normal(3, 5), "e4m3fn/row", prologue="gelu")
    assert isinstance(q, QuantizedTensor)
    assert FUSED_QUANTIZE(normal(3, 5), None, None, "gelu", "e4m3fn/row", 0, 0, 0.0, False)[3].numel() == 0


def test_rotation_fills_the_last_block_up() -> None:
    q, values = fused_quantize(normal(3, 20), "e4m3fn/row", prologue="hadamard16", return_values=True)
    assert q.shape == values.shape == (3, 32)
    assert values[:, 16:].square().sum() == pytest.approx(float(normal(3, 20)[:, 16:].square().sum()), rel=1e-5)


X = normal(4, 32)
WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"prologue": "softmax"}, ValueError, "prologue: got 'softmax', accepted: hadamard16"),
    ({"prologue": "add"}, ValueError, r"other: add needs one, x \+ other; got None"),
    ({"prologue": "gelu", "other": X}, ValueError, "other: gelu takes none"),
    ({"prologue": "add", "other": X[:2]}, ValueError, r"other: expected the shape \(4, 32\).*got \(2, 32\)"),
    ({"prologue": "add", "other": X.half()}, ValueError, "other: expected the shape.*got .*float16"),
    ({"prologue": "silu_mul", "other": X, "weight": X[0]}, ValueError, "weight: silu_mul takes none"),
    ({"prologue": "rmsnorm", "weight": X[0, :5]}, ValueError, r"weight: rmsnorm of 32 columns takes \[32\]"),
    ({"prologue": "hadamard64", "signs": X[0, :5]}, ValueError, r"takes \[32\] or \[64\] on cpu, got \(5,\)"),
    ({"prologue": "rmsnorm", "signs": X[0]}, ValueError, "signs: taken, in the place of a weight, by hadamard16"),
    ({"prologue": "rmsnorm", "eps": 0.0}, ValueError, "eps: rmsnorm takes a finite number of at least 1e-30, got 0.0"),
    ({"prologue": "rmsnorm", "eps": float("nan")}, ValueError, "eps: rmsnorm takes a finite number"),
    ({"prologue": "gelu", "x": X.double()}, TypeError, "x: expected dtype float32, float16, bfloat16, got float64"),
    ({"prologue": "gelu", "x": torch.tensor(1.0)}, ValueError, "x: gelu works along the last axis"),
    ({"prologue": "rmsnorm", "weight": X[0].int()}, TypeError, "weight: expected dtype .*got int32"),
    ({"prologue": "gelu", "scheme": "e4m3fn/row+sr"}, ValueError, "seed: stochastic scheme"),
    ({"prologue": "gelu", "scheme": "e9m9"}, ValueError, "e9m9"),
]


@pytest.mark.parametrize(("wrong", "kind", "message"), WRONG, ids=[str(i) for i in range(len(WRONG))])
def test_wrong_argument_is_named(wrong: dict[str, Any], kind: type[Exception], message: str) -> None:
    arguments = {"x": X, "scheme": "e4m3fn/row", **wrong}
    with pytest.raises(kind, match=message):
        fused_quantize(arguments.pop("x"), arguments.pop("scheme"), **arguments)


def test_gpus_do_not_search_for_clipping_points() -> None:
    call = (X, None, None, "gelu", "int4/row:mse", 0, 0, 1e-5, False)
    assert "searches the result" in str(FUSED_QUANTIZE.unsupported(*call))
    assert FUSED_QUANTIZE.unsupported(*call[:4], "int4/row", *call[5:]) is None


def test_fake_tensors_tell_shapes_and_dtypes() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    for scheme, period in (("mxfp8", 16), ("int8/col", 37), ("nvfp4", 16)):
        x, signs = normal(3, 5, 37, dtype=torch.bfloat16), torch.ones(period)
        call = ("hadamard16", scheme, 0, 0, 1e-5, True)
        real = FUSED_QUANTIZE(x, None, signs, *call)
        with FakeTensorMode() as mode:
            fake = FUSED_QUANTIZE(mode.from_tensor(x), None, mode.from_tensor(signs), *call)
        assert [(f.shape, f.dtype) for f in fake] == [(r.shape, r.dtype) for r in real]


def test_compiled_function_gives_the_same_bits() -> None:
    def function(x: Tensor, other: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, values = fused_quantize(x, "mxfp8", prologue="silu_mul", other=other, return_values=True)
        return q.codes, q.scale, values

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    pair = normal(5, 48), normal(5, 48, seed=1)
    for a, b in zip(compiled(*pair), function(*pair), strict=True):
        assert torch.equal(a, b)


def test_16_bit_function_tables_hold_every_value() -> None:
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    _, values = fused_quantize(every.view(256, 256), "e4m3fn", prologue="gelu_tanh", return_values=True)
    wide = every.float().numpy()
    with np.errstate(all="ignore"):
        want = PROLOGUES["gelu_tanh"].define(wide, None, None, 0.0)
    assert torch.equal(values.view(-1).nan_to_num(0.5), torch.from_numpy(want).bfloat16().nan_to_num(0.5))
