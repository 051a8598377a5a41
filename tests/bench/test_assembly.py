"""Reading assembly: matrix instructions, and the widths of accesses to global memory."""

from __future__ import annotations

import pytest

from narrowgauge.bench.assembly import matrix_instructions, tensor_copies, widest_load, widest_store

TENSOR_LOAD = "cp.async.bulk.tensor.2d.shared::cta.global.mbarrier::complete_tx::bytes"


@pytest.mark.parametrize(
    ("line", "width"),
    [
        ("cp.async.cg.shared.global [ %r1 + 0 ], [ %rd2 + 0 ], 0x10, %r3;", 16),
        ("cp.async.ca.shared.global [ %r1 + 0 ], [ %rd2 + 0 ], 0x8, %r3;", 8),
        ("@%p1 ld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd1 + 0 ];", 16),
        ("ld.global.L1::evict_last.v2.b64 { %rd1, %rd2 }, [ %rd3 ];", 16),
        ("ld.global.b8 { %rs1 }, [ %rd1 ];", 1),
        ("st.global.v4.b32 [ %rd1 + 0 ], { %r1, %r2, %r3, %r4 };", 0),
        ("global_load_dwordx4 v[2:5], v[0:1], off offset:64", 16),
        ("global_load_dwordx2 v[2:3], v[0:1], off", 8),
        ("global_load_ubyte v2, v[0:1], off", 1),
        ("buffer_load_dword v1, v2, s[4:7], 0 offen", 4),
        ("buffer_load_short_d16 v1, v2, s[4:7], 0 offen", 2),
        ("global_load_b128 v[2:5], v[0:1], off", 16),
        ("s_load_dwordx8 s[4:11], s[0:1], 0x8", 0),
        ("ld.param.b64 %rd1, [_gemm_kernel_param_0];", 0),
        (f"{TENSOR_LOAD} [ %r1 ], [ %rd1, {{ %r2, %r3 }} ], [ %r4 ];", 0),
    ],
)
def test_width_of_a_load(line: str, width: int) -> None:
    assert widest_load(line) == width
    assert widest_load("ld.global.b8 { %rs1 }, [ %rd1 ];\n" + line) == max(width, 1)


@pytest.mark.parametrize(
    ("line", "width"),
    [
        ("@%p1 st.global.v4.b32 [ %rd1 + 0 ], { %r1, %r2, %r3, %r4 };", 16),
        ("st.global.v2.b32 [ %rd1 ], { %r1, %r2 };", 8),
        ("st.global.b8 [ %rd1 ], { %rs1 };", 1),
        ("st.shared.v4.b32 [ %r1 ], { %r1, %r2, %r3, %r4 };", 0),
        ("global_store_dwordx4 v[0:1], v[2:5], off", 16),
        ("buffer_store_byte v1, v2, s[4:7], 0 offen", 1),
        ("buffer_store_dwordx2 v[1:2], v2, s[4:7], 0 offen", 8),
        ("global_load_dwordx4 v[2:5], v[0:1], off", 0),
    ],
)
def test_width_of_a_store(line: str, width: int) -> None:
    assert widest_store(line) == width


def test_matrix_instructions_are_listed_once() -> None:
    text = """
    wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 { %r1 }
    wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 { %r2 }
    mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 { %r3 }
    v_mfma_f32_32x32x16_fp8_fp8 v[0:15], v[16:17]
    wgmma.commit_group.sync.aligned;
    """
    assert matrix_instructions(text) == (
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
        "v_mfma_f32_32x32x16_fp8_fp8",
        "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3",
    )


def test_copies_by_the_tensor_memory_accelerator() -> None:
    assert tensor_copies(f"@%p1 {TENSOR_LOAD} [ %r1 ], [ %rd1, {{ %r2, %r3 }} ], [ %r4 ];") == (TENSOR_LOAD,)
    assert tensor_copies("cp.async.cg.shared.global [ %r1 + 0 ], [ %rd2 + 0 ], 0x10, %r3;") == ()
