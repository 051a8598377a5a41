"""What the models of launches know of a GPU architecture: figures of the data sheets of its largest product.

They rank configurations; no measurement is ever replaced by them. Peaks are dense, without sparsity, in operations of
one multiply or add per second; bandwidth in bytes per second.

Sources: NVIDIA's data sheets of A100 80 GB SXM, L40S, H100 SXM, B200 (per GPU) and RTX PRO 6000 Blackwell, the CUDA C++
Programming Guide (compute capabilities), AMD's data sheets of MI300X and MI355X.
"""

from __future__ import annotations

from typing import NamedTuple

from narrowgauge.kernels._gemm_plan import INTERPRETER


class Gpu(NamedTuple):
    """units: multiprocessors or compute units. shared: bytes of shared memory that one program may have; per_unit: that
    a unit has for all of its programs. threads: that a unit holds. matrix: peaks by operand type; "fp8" and "int8" are
    those of "fp16" where decoding comes first."""

    units: int
    bandwidth: float
    shared: int
    per_unit: int
    threads: int
    fp16: float
    fp8: float
    int8: float
    fp4: float
    fp32: float


_KIB = 1 << 10
_T = 1e12
GPUS = {
    "sm_80": Gpu(108, 2.039e12, 163 * _KIB, 164 * _KIB, 2048, 312 * _T, 312 * _T, 624 * _T, 312 * _T, 19.5 * _T),
    "sm_89": Gpu(142, 0.864e12, 99 * _KIB, 100 * _KIB, 1536, 362 * _T, 733 * _T, 733 * _T, 362 * _T, 91.6 * _T),
    "sm_90": Gpu(132, 3.35e12, 227 * _KIB, 228 * _KIB, 2048, 989 * _T, 1979 * _T, 1979 * _T, 989 * _T, 67 * _T),
    "sm_100": Gpu(148, 8.0e12, 227 * _KIB, 228 * _KIB, 2048, 2250 * _T, 4500 * _T, 4500 * _T, 9000 * _T, 80 * _T),
    "sm_120": Gpu(188, 1.792e12, 99 * _KIB, 100 * _KIB, 1536, 503 * _T, 1006 * _T, 1006 * _T, 2012 * _T, 126 * _T),
    "gfx942": Gpu(304, 5.3e12, 64 * _KIB, 64 * _KIB, 2048, 1307 * _T, 2614 * _T, 2614 * _T, 1307 * _T, 163 * _T),
    "gfx950": Gpu(256, 8.0e12, 160 * _KIB, 160 * _KIB, 2048, 2516 * _T, 5033 * _T, 5033 * _T, 10066 * _T, 157 * _T),
}
_ALIKE = {"sm_86": "sm_89", "sm_103": "sm_100", "sm_121": "sm_120", INTERPRETER: "sm_90"}


def gpu_of(target: str) -> Gpu:
    """The figures for "sm_90", "gfx942", …; of an architecture that is not listed, those of the nearest one."""
    if target in GPUS:
        return GPUS[target]
    return GPUS[_ALIKE.get(target, "gfx942" if target.startswith("gfx") else "sm_80")]
