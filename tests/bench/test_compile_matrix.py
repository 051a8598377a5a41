"""Every kernel builds for every target without a GPU: the instruction that multiplies, no spills, memory that fits.

Building all of them takes ten minutes of one core, so that the slow test alone does it. The quick ones build the main
kernels, and look into the table that the slow one compares with: it holds every case there is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import narrowgauge
from narrowgauge.bench.compile_build import TARGETS
from narrowgauge.bench.compile_matrix import chosen_cases, load_ops
from narrowgauge.bench.compile_table import read_table

triton = pytest.importorskip("triton", reason="the package triton is not installed")

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "bench/results/compile-matrix.json"
MAIN = (
    "scaled_gemm e4m3fn/row × e4m3fn/row", "scaled_gemm e4m3fn/1x128 × e4m3fn/128x128", "block_scaled_gemm mxfp8",
    "scaled_gemm int8/row × int8/row", "weight_only_gemm int4/1x128 x 1 ", "quantize e4m3fn/row bf16",
    "fused_quantize rmsnorm e4m3fn/row", "quantize_pair mxfp8", "optimizer_step adamw log8, coat",
)  # fmt: skip
MMA_FP16 = "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"
MMA_FP8 = "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32"
MMA_INT8 = "mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8.s32"
TENSOR, DEEPSEEK = "scaled_gemm e4m3fn × e4m3fn", "scaled_gemm e4m3fn/1x128 × e4m3fn/128x128"
INT8, RF8 = "scaled_gemm int8/row × int8/row", "scaled_gemm rf8/row × rf8/row"
INSTRUCTIONS = {
    "sm_80": {TENSOR: MMA_FP16, DEEPSEEK: MMA_FP16, INT8: MMA_INT8, RF8: MMA_FP16},
    "sm_89": {TENSOR: MMA_FP8, DEEPSEEK: MMA_FP8, INT8: MMA_INT8, RF8: MMA_FP16},
    "sm_90": {
        TENSOR: "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3",
        DEEPSEEK: "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3",
        INT8: "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8",
        RF8: "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16",
    },
    "sm_100": {
        TENSOR: "tcgen05.mma.cta_group::1.kind::f8f6f4",
        DEEPSEEK: "tcgen05.mma.cta_group::1.kind::f8f6f4",
        INT8: MMA_INT8,  # Triton has no tcgen05 product of integers
        RF8: "tcgen05.mma.cta_group::1.kind::f16",
    },
    "sm_120": {TENSOR: MMA_FP8, DEEPSEEK: MMA_FP8, INT8: MMA_INT8, RF8: MMA_FP16},
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


def judged(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """The builds, all of them good and as the table has them."""
    assert done.stdout, done.stderr
    content = json.loads(done.stdout)
    assert {build["case"]: build["problems"] for build in content["builds"] if build["problems"]} == {}
    assert content["differences"] == []
    assert done.returncode == 0
    return list(content["builds"])


@pytest.mark.parametrize("target", TARGETS)
def test_the_main_kernels_build_as_the_table_has_them(target: str) -> None:
    chosen = [word for text in MAIN for word in ("--case", text)]
    builds = judged(matrix("--json", "--target", target, "--compare", str(TABLE), *chosen))
    found = {build["op"] for build in builds}
    assert {"scaled_gemm", "weight_only_gemm", "quantize", "fused_quantize", "optimizer_step"} <= found


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_every_kernel_builds_as_the_table_has_it(target: str) -> None:
    judged(matrix("--json", "--target", target, "--compare", str(TABLE)))


def test_the_table_has_every_build_and_all_are_good() -> None:
    load_ops()
    expected = {(target, case.name) for _, case, target in chosen_cases([""], list(TARGETS))}
    table = read_table(TABLE)["builds"]
    kept = {(target, case): build for target, cases in table.items() for case, build in cases.items()}
    assert kept.keys() == expected, "renew it: python -m narrowgauge.bench.compile_matrix --jobs 2 --out " + str(TABLE)
    assert {place: build["problems"] for place, build in kept.items() if build["problems"]} == {}
    assert {build["spills"] for build in kept.values()} == {0}
    assert all(build["shared_bytes"] <= TARGETS[target].shared_bytes for (target, _), build in kept.items())


@pytest.mark.parametrize("target", INSTRUCTIONS)
def test_matrix_units_do_the_products(target: str) -> None:
    table = read_table(TABLE)["builds"][target]
    found = {case: table[case]["instructions"] for case in INSTRUCTIONS[target]}
    assert found == {case: [instruction] for case, instruction in INSTRUCTIONS[target].items()}


def test_operands_are_read_16_bytes_at_a_time_or_by_the_tensor_memory_accelerator() -> None:
    table = read_table(TABLE)["builds"]
    for target in ("sm_80", "sm_89", "sm_90", "sm_100", "sm_120"):
        for case in (TENSOR, DEEPSEEK, INT8):
            build = table[target][case]
            assert build["load_bytes"] >= 16 or build["tensor_copies"], (target, case)
    for target in ("sm_90", "sm_100"):
        assert table[target][TENSOR]["tensor_copies"], target


def test_interpreted_kernels_are_refused() -> None:
    done = matrix("--case", "gemm", interpret=True)
    assert done.returncode == 2
    assert "without TRITON_INTERPRET" in done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--case", "no such kernel"], "--case: no case's name contains 'no such kernel'"),
        (["--jobs", "0"], "--jobs: expected at least 1, got 0"),
        (["--case", "swizzle", "--compare", "missing.json"], "missing.json"),
    ],
)
def test_what_cannot_be_is_refused(flags: list[str], message: str) -> None:
    done = matrix(*flags)
    assert done.returncode == 2
    assert message in done.stderr


def test_two_processes_build_what_one_does(tmp_path: Path) -> None:
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    flags = ("--case", "swizzle_scales", "--target", "sm_90", "--target", "gfx942")
    assert matrix(*flags, "--out", str(one)).returncode == 0
    assert matrix(*flags, "--out", str(two), "--jobs", "2").returncode == 0
    assert read_table(one) == read_table(two)
    assert sum(map(len, read_table(one)["builds"].values())) > 2
