"""Samples of fused_quantize, and what its ahead-of-time compilations stand for: the launches that training meets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from narrowgauge.formats import parse
from narrowgauge.kernels._fused_quantize_plan import LOOPED, fused_plan, prologue_layout
from narrowgauge.kernels._fused_quantize_triton import (
    encode_prologue_kernel,
    fused_prologue_kernel,
    maxima_prologue_kernel,
    roots_kernel,
)
from narrowgauge.kernels._quantize_plan import scale_layout
from narrowgauge.kernels._quantize_triton import encoding
from narrowgauge.kernels._register_room import with_room
from narrowgauge.kernels.layout import layout_for, scale_dtype, table_constants, table_signature
from narrowgauge.kernels.op import CompileCase, Sample
from narrowgauge.kernels.prologues import PROLOGUES, Prologue

SCHEMES = (
    "e4m3fn/row", "e5m2/1x128+sr", "int8", "mxfp8", "mxfp4+sr", "nvfp4", "rf8/4x24", "int8/col", "nf4/1x64", "mx6",
    "e4m3fn/128x128", "e4m3fn/row+sr",
)  # fmt: skip


def samples(rng: np.random.Generator, device: str) -> Iterator[Sample]:
    """Every prologue with every kind of tile, dtype and edge."""

    def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.from_numpy(rng.standard_normal(shape).astype(np.float32)).to(dtype).to(device)

    def sample(name: str, x: Tensor, prologue: str, scheme: str, keep: bool = True, period: int = 0) -> Sample:
        chosen = PROLOGUES[prologue]
        other = normal(*x.shape, dtype=x.dtype) if chosen.takes_other else None
        weight = _weight(chosen, rng, x.shape[-1], period).to(device) if chosen.weighted and period >= 0 else None
        return Sample(
            f"{prologue} {name}", (x, other, weight, prologue, scheme, 1234567890123, 77 << 32 | 5, 1e-5, keep)
        )

    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    for index, prologue in enumerate(PROLOGUES):
        block = PROLOGUES[prologue].block
        for step, dtype in enumerate(dtypes):
            for number in range(2):
                scheme = SCHEMES[(index * 5 + step * 2 + number * 7) % len(SCHEMES)]
                x = normal(13, 131, dtype=dtype) * 3
                yield sample(f"{scheme} {dtype}", x, prologue, scheme, number == 0, block if step == 1 else 0)
        for shape in ((1,), (7,), (1, 1), (0, 8), (8, 0), (3, 5, 17), (2, 257)):
            scheme = SCHEMES[(index + len(shape) * 3 + shape[-1]) % len(SCHEMES)]
            yield sample(f"{scheme} {shape}", normal(*shape), prologue, scheme, shape[-1] % 2 == 1, -1)
        wild = normal(9, 160) * torch.exp(3 * normal(9, 160))
        wild[1, 5], wild[2, 0], wild[3, 159] = float("nan"), float("inf"), -float("inf")
        wild[4], wild[5], wild[6], wild[7] = 0.0, 3e38, 1e-42, -1e5
        yield sample("wild", wild, prologue, "e4m3fn/row")
        yield sample("wild half", wild[:, :40].half(), prologue, "mxfp8")
        yield sample("transposed", normal(40, 24, dtype=torch.bfloat16).t(), prologue, "int8/row")
        yield sample("strided", normal(20, 300)[::2, 7:200:3], prologue, "nvfp4+sr")


def _weight(prologue: Prologue, rng: np.random.Generator, columns: int, period: int) -> Tensor:
    if prologue.weighted == "gain":
        return torch.from_numpy(1 + 0.3 * rng.standard_normal(columns).astype(np.float32))
    return torch.from_numpy(rng.choice(np.array([-1, 1], np.float32), period or columns))


CASES = (
    *((name, scheme) for name in PROLOGUES for scheme in ("e4m3fn/row", "mxfp8")),
    ("hadamard16", "mxfp4"),
    ("hadamard16", "mxfp4+sr"),
)
_SCALES = {torch.float32: "*fp32", torch.uint8: "*u8", torch.int16: "*i16"}
_ROWS, _COLUMNS = 4096, 4096


def compile_cases() -> Iterator[CompileCase]:
    """bfloat16 rows of 4096 columns in one launch, the two launches of two-level scales, and norms of long rows."""
    for name, scheme in CASES:
        yield _case(fused_prologue_kernel, name, scheme, _COLUMNS, keeps=PROLOGUES[name].adds)
    for name in ("hadamard16", "rmsnorm"):
        yield _case(maxima_prologue_kernel, name, "nvfp4", _COLUMNS)
        yield from with_room(_case(fused_prologue_kernel, name, "nvfp4", _COLUMNS))
    for kernel in (maxima_prologue_kernel, encode_prologue_kernel):
        yield _case(kernel, "silu_mul", "e4m3fn", _COLUMNS)
        yield _case(kernel, "add_rmsnorm", "e4m3fn/row", 5 * LOOPED)
    yield _case(roots_kernel, "add_rmsnorm", "e4m3fn/row", 5 * LOOPED)
    yield _case(fused_prologue_kernel, "silu_mul", "e4m3fn/row", 14336)
    yield _case(fused_prologue_kernel, "add_rmsnorm", "e4m3fn/row", 16384, keeps=True)


def _case(kernel: Any, name: str, scheme: str, columns: int, keeps: bool = False) -> CompileCase:
    spec, prologue = parse(scheme), PROLOGUES[name]
    layout, cut = layout_for(spec), fused_plan(_ROWS, columns, spec, prologue)
    weights = {"gain": columns, "signs": prologue.block}.get(prologue.weighted)
    before = prologue_layout(prologue, cut.norm, torch.bfloat16, columns, weights, keeps)
    pointers = {
        "x_ptr": "*bf16", "other_ptr": "*bf16", "weight_ptr": "*fp32", "root_ptr": "*fp32", "codes_ptr": "*u8",
        "scale_ptr": _SCALES[scale_dtype(spec)], "factor_ptr": "*fp32", "outer_ptr": "*fp32",
        "maxima_ptr": "*i32", "values_ptr": "*bf16",
    }  # fmt: skip
    sizes = ("M", "K", "COLUMNS", "TILES_K", "stride_xm", "stride_om")
    signature = pointers | dict.fromkeys(sizes, "i32") | {"seed": "i64", "offset": "i64", "eps": "fp32"}
    signature |= table_signature(layout)
    constants: dict[str, Any] = {
        **table_constants(layout), **encoding(spec, columns, cut.block_k), "stride_xk": 1, "stride_ok": 1, "P": before,
        "T": cut.tiling, "BLOCK_M": cut.block_m, "BLOCK_K": cut.block_k,
    }  # fmt: skip
    warps = cut.num_warps
    constants["ONE"] = cut.fused
    if kernel is fused_prologue_kernel:
        constants["S"] = scale_layout(spec)
    if kernel is roots_kernel:
        constants["BLOCK_K"], warps = LOOPED, 8
    unused = {"other_ptr": not prologue.takes_other, "weight_ptr": weights is None, "root_ptr": cut.norm != "given"}
    constants |= {argument: None for argument, absent in unused.items() if absent and kernel is not roots_kernel}
    names = kernel.arg_names
    step = {"fused_prologue_kernel": "", "maxima_prologue_kernel": " maxima", "encode_prologue_kernel": " encode"}
    title = f"fused_quantize {name} {scheme} {columns}" + step.get(kernel.__name__, " norms")
    return CompileCase(
        title, kernel, {k: v for k, v in signature.items() if k in names and k not in constants},
        {k: v for k, v in constants.items() if k in names}, num_warps=warps, options=(("enable_fp_fusion", False),),
    )  # fmt: skip
