"""Which hardware computes with or converts to a format by itself. Facts from the vendors' manuals, not measurements.

What this package does with them is another matter: see `narrowgauge doctor` and `explain`.
"""

from __future__ import annotations

from typing import NamedTuple

from narrowgauge.formats.block import BlockFormat
from narrowgauge.formats.registry import AnyFormat, get


class Support(NamedTuple):
    """hardware: who; what: "matrix" (operands of a matrix or dot product unit) or "convert" (conversions only).
    source: where it is documented."""

    hardware: str
    what: str
    source: str


_PTX = "PTX ISA 9, mma and cvt"
_CDNA3 = "AMD CDNA3 ISA"
_CDNA4 = "AMD CDNA4 ISA"
_OCP8 = (
    Support("NVIDIA Ada, Hopper, Blackwell (sm_89, sm_90, sm_100, sm_120)", "matrix", _PTX),
    Support("AMD MI350, RDNA4 (gfx950, gfx12)", "matrix", _CDNA4),
    Support("Intel AVX10.2 (HF8, BF8)", "convert", "Intel AVX10.2 specification"),
    Support("Arm FEAT_FP8", "convert", "Arm A-profile architecture, Armv9.5"),
)
_FNUZ = (Support("AMD MI300 (gfx942)", "matrix", _CDNA3),)
_BLACKWELL_NARROW = (
    Support("NVIDIA Blackwell (sm_100, sm_120)", "matrix", _PTX),
    Support("AMD MI350 (gfx950)", "matrix", _CDNA4),
)
_BLACKWELL_BLOCK = (
    Support("NVIDIA Blackwell (sm_100, sm_120), block scales in the matrix unit", "matrix", _PTX),
    Support("AMD MI350 (gfx950), block scales in the matrix unit", "matrix", _CDNA4),
)

NATIVE: dict[str, tuple[Support, ...]] = {
    "e4m3fn": _OCP8,
    "e5m2": _OCP8,
    "e4m3fnuz": _FNUZ,
    "binary8p4sf": _FNUZ,
    "e5m2fnuz": _FNUZ,
    "binary8p3sf": _FNUZ,
    "e2m3fn": _BLACKWELL_NARROW,
    "e3m2fn": _BLACKWELL_NARROW,
    "e2m1fn": _BLACKWELL_NARROW,
    "e8m0fnu": (Support("NVIDIA Blackwell (sm_100, sm_120)", "convert", _PTX),),
    "mxfp8_e4m3": _BLACKWELL_BLOCK,
    "mxfp8_e5m2": _BLACKWELL_BLOCK,
    "mxfp6_e2m3": _BLACKWELL_BLOCK,
    "mxfp6_e3m2": _BLACKWELL_BLOCK,
    "mxfp4": _BLACKWELL_BLOCK,
    "nvfp4": _BLACKWELL_BLOCK[:1],
    "int8": (
        Support("NVIDIA since Turing (sm_75)", "matrix", _PTX),
        Support("AMD CDNA, RDNA3 and newer", "matrix", _CDNA3),
        Support("x86 AVX-512 VNNI, AVX-VNNI, AMX", "matrix", "Intel 64 and IA-32 manual"),
        Support("Arm FEAT_DotProd, FEAT_I8MM", "matrix", "Arm A-profile architecture"),
    ),
    "int4": (Support("NVIDIA Turing, Ampere, Ada (sm_75 to sm_89); not the units of Hopper", "matrix", _PTX),),
    "fp16": (
        Support("NVIDIA since Volta (sm_70)", "matrix", _PTX),
        Support("AMD CDNA, RDNA3 and newer", "matrix", _CDNA3),
        Support("x86 AVX-512 FP16, AMX-FP16", "matrix", "Intel 64 and IA-32 manual"),
    ),
    "bf16": (
        Support("NVIDIA since Ampere (sm_80)", "matrix", _PTX),
        Support("AMD CDNA, RDNA3 and newer", "matrix", _CDNA3),
        Support("x86 AVX-512 BF16, AMX-BF16", "matrix", "Intel 64 and IA-32 manual"),
        Support("Arm FEAT_BF16", "matrix", "Arm A-profile architecture"),
    ),
    "tf32": (Support("NVIDIA since Ampere (sm_80)", "matrix", _PTX),),
    "dlfloat16": (Support("IBM Telum (NNPA data type 1)", "matrix", "z/Architecture Principles of Operation"),),
    "hif8": (Support("Huawei Ascend 950", "matrix", "arXiv 2409.16626 and the vendor's product pages"),),
}
"""Registered name → who has it; formats that are not listed are emulated everywhere, as far as we know."""


def native_support(fmt: str | AnyFormat) -> tuple[Support, ...]:
    """Who has `fmt` in hardware: the format itself, or, of a block format that nobody has, its elements."""
    chosen: AnyFormat = get(fmt)
    found = NATIVE.get(chosen.name, ())
    if found or not isinstance(chosen, BlockFormat):
        return found
    # Integer elements go through an integer unit of their width, scaled afterwards.
    element = chosen.element
    name = "int8" if element.name.startswith("int") and element.bits <= 8 else element.name
    return tuple(Support(f"{s.hardware}; the elements, not the scales", s.what, s.source) for s in NATIVE.get(name, ()))
