"""What a build is judged by."""

from __future__ import annotations

from narrowgauge.bench.compile_build import problems_of
from narrowgauge.kernels.op import CompileCase

WIDE = "ld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd1 ];"


def test_problems_are_named() -> None:
    case = CompileCase("c", None, {}, {}, expect=(("sm_90", "wgmma"), ("sm_80", "mma.sync")))
    assert problems_of(case, "sm_90", f"wgmma.mma_async {WIDE}", 0, 227 << 10) == ()
    assert problems_of(case, "sm_90", f"mma.sync {WIDE}", 8, (227 << 10) + 1) == (
        "'wgmma' is not in the assembly",
        "spills 8 bytes",
        "needs 232449 bytes of shared memory, a program may have 232448",
    )
    assert problems_of(case, "gfx942", "global_load_dwordx4 v[2:5], v[0:1], off", 3, 0) == ("spills 3 registers",)


def test_narrow_reads_are_a_problem_unless_the_case_says_so() -> None:
    narrow = "ld.global.v2.b32 { %r1, %r2 }, [ %rd1 ];"
    assert problems_of(CompileCase("c", None, {}, {}), "sm_80", narrow, 0, 0) == (
        "threads read at most 8 bytes at a time, 16 are expected",
    )
    assert problems_of(CompileCase("c", None, {}, {}, load_bytes=8), "sm_80", narrow, 0, 0) == ()
    copy = "cp.async.bulk.tensor.2d.shared::cta.global.mbarrier::complete_tx::bytes [ %r1 ];"
    assert problems_of(CompileCase("c", None, {}, {}), "sm_90", f"{narrow} {copy}", 0, 0) == ()
