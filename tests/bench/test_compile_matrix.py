"""Every kernel builds for every target without a GPU: the instruction that multiplies, no spills, memory that fits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import narrowgauge
from narrowgauge.bench.compile_matrix import TARGETS, problems_of, widest_load
from narrowgauge.kernels.op import CompileCase

pytest.importorskip("triton", reason="the package triton is not installed")

MMA_FP16 = "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"
MMA_INT8 = "mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8.s32"
WGMMA = "wgmma.mma_async.sync.aligned.m64n128"
TENSOR, DEEPSEEK = "scaled_gemm e4m3fn × e4m3fn", "scaled_gemm e4m3fn/1x128 × e4m3fn/128x128"
GRADIENT = "scaled_gemm e5m2/row × e4m3fn/row (b transposed)"
INT8, RF8 = "scaled_gemm int8/row × int8/row", "scaled_gemm rf8/row × rf8/row"
INSTRUCTIONS = {
    "sm_80": {TENSOR: MMA_FP16, DEEPSEEK: MMA_FP16, GRADIENT: MMA_FP16, INT8: MMA_INT8, RF8: MMA_FP16},
    "sm_90": {
        TENSOR: f"{WGMMA}k32.f32.e4m3.e4m3",
        DEEPSEEK: f"{WGMMA}k32.f32.e4m3.e4m3",
        GRADIENT: f"{WGMMA}k32.f32.e5m2.e4m3",
        INT8: f"{WGMMA}k32.s32.s8.s8",
        RF8: "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16",
    },
    "sm_100": {
        TENSOR: "tcgen05.mma.cta_group::1.kind::f8f6f4",
        DEEPSEEK: "tcgen05.mma.cta_group::1.kind::f8f6f4",
        GRADIENT: "tcgen05.mma.cta_group::1.kind::f8f6f4",
        INT8: MMA_INT8,  # Triton has no tcgen05 product of integers
        RF8: "tcgen05.mma.cta_group::1.kind::f16",
    },
    "gfx942": {
        TENSOR: "v_mfma_f32_32x32x8_f16",
        "scaled_gemm e4m3fnuz/row × e4m3fnuz/row": "v_mfma_f32_32x32x16_fp8_fp8",
        INT8: "v_mfma_i32_32x32x16_i8",
        RF8: "v_mfma_f32_32x32x8_f16",
    },
}


def matrix(*options: str, interpret: bool = False) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, where kernels are compiled unless `interpret`."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(Path(narrowgauge.__file__).parents[1])
    if interpret:
        environment["TRITON_INTERPRET"] = "1"
    command = [sys.executable, "-m", "narrowgauge.bench.compile_matrix", *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("target", TARGETS)
def test_every_kernel_builds_without_spills_and_uses_the_tensor_core(target: str) -> None:
    done = matrix("--json", "--target", target)
    assert done.stdout, done.stderr
    builds: list[dict[str, Any]] = json.loads(done.stdout)["builds"]
    assert {build["case"]: build["problems"] for build in builds if build["problems"]} == {}
    assert done.returncode == 0
    assert all(build["spills"] == 0 for build in builds)
    assert {"quantize", "dequantize", "scaled_gemm"} <= {build["op"] for build in builds}
    by_case = {build["case"]: build for build in builds}
    found = {case: by_case[case]["instructions"] for case in INSTRUCTIONS[target]}
    assert found == {case: [instruction] for case, instruction in INSTRUCTIONS[target].items()}
    # Operands are read 16 bytes at a time; on CDNA the narrow tiles of decoded operands leave eight.
    narrowest = min(by_case[case]["load_bytes"] for case in INSTRUCTIONS[target])
    assert narrowest >= (8 if target == "gfx942" else 16)


def test_interpreted_kernels_are_refused() -> None:
    done = matrix("--case", "gemm", interpret=True)
    assert done.returncode == 2
    assert "without TRITON_INTERPRET" in done.stderr


def test_a_case_that_does_not_exist_is_refused() -> None:
    done = matrix("--case", "no such kernel")
    assert done.returncode == 2
    assert "--case: no case's name contains 'no such kernel'" in done.stderr


def test_problems_are_named() -> None:
    case = CompileCase("c", None, {}, {}, expect=(("sm_90", "wgmma"), ("sm_80", "mma.sync")))
    assert problems_of(case, "sm_90", "wgmma.mma_async", 0, 227 << 10) == ()
    assert problems_of(case, "sm_90", "mma.sync", 8, (227 << 10) + 1) == (
        "'wgmma' is not in the assembly",
        "spills 8 bytes",
        "needs 232449 bytes of shared memory, a program may have 232448",
    )
    assert problems_of(case, "gfx942", "", 3, 0) == ("spills 3 registers",)


@pytest.mark.parametrize(
    ("line", "width"),
    [
        ("cp.async.cg.shared.global [ %r1 + 0 ], [ %rd2 + 0 ], 0x10, %r3;", 16),
        ("cp.async.ca.shared.global [ %r1 + 0 ], [ %rd2 + 0 ], 0x8, %r3;", 8),
        ("@%p1 ld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd1 + 0 ];", 16),
        ("ld.global.L1::evict_last.v2.b64 { %rd1, %rd2 }, [ %rd3 ];", 16),
        ("ld.global.b8 { %rs1 }, [ %rd1 ];", 1),
        ("global_load_dwordx4 v[2:5], v[0:1], off offset:64", 16),
        ("buffer_load_dword v1, v2, s[4:7], 0 offen", 4),
        ("s_load_dwordx8 s[4:11], s[0:1], 0x8", 0),
        ("ld.param.b64 %rd1, [_gemm_kernel_param_0];", 0),
    ],
)
def test_width_of_a_load(line: str, width: int) -> None:
    assert widest_load(line) == width
