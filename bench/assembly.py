"""What the assembly of a kernel says: which matrix instructions it has, and how wide it reads and writes memory."""

from __future__ import annotations

import re

_MATRIX_INSTRUCTION = re.compile(r"\b(?:wgmma\.mma_async|tcgen05\.mma|mma\.sync|v_s?mfmac?_)[\w.:]*")
_ASYNC_COPY = re.compile(r"\bcp\.async\.c[ag]\.shared\.global \[[^\]]*\], \[[^\]]*\], (0x[0-9a-f]+|\d+)")
_TENSOR_COPY = re.compile(r"\bcp\.async\.bulk\.tensor[\w.:]*")
_PTX_QUALIFIERS = r"\.global(?:\.[A-Za-z]\w*(?:::\w+)*)*?(?:\.v(\d))?\.b(\d+)"
_PTX_LOAD = re.compile(r"\bld" + _PTX_QUALIFIERS)
_PTX_STORE = re.compile(r"\bst" + _PTX_QUALIFIERS)
_AMD_ACCESS = r"\b(?:global|buffer)_{}_(dword|byte|ubyte|sbyte|short|ushort|b)(?:x?(\d+))?(?:_d16(?:_hi)?)?\b"
_AMD_LOAD = re.compile(_AMD_ACCESS.format("load"))
_AMD_STORE = re.compile(_AMD_ACCESS.format("store"))
_AMD_BYTES = {"dword": 4, "byte": 1, "ubyte": 1, "sbyte": 1, "short": 2, "ushort": 2}


def matrix_instructions(assembly: str) -> tuple[str, ...]:
    """Every kind of matrix instruction in it, sorted."""
    return tuple(sorted(set(_MATRIX_INSTRUCTION.findall(assembly))))


def tensor_copies(assembly: str) -> tuple[str, ...]:
    """Every kind of copy by the tensor memory accelerator, sorted; such copies have no width of a thread."""
    return tuple(sorted({name for name in _TENSOR_COPY.findall(assembly) if ".global" in name}))


def widest_load(assembly: str) -> int:
    """Bytes that one thread reads from global memory by one instruction, at most; PTX or AMD GCN."""
    widths = [int(size, 0) for size in _ASYNC_COPY.findall(assembly)]
    return max([*widths, *_ptx_widths(_PTX_LOAD, assembly), *_amd_widths(_AMD_LOAD, assembly)], default=0)


def widest_store(assembly: str) -> int:
    """Bytes that one thread writes to global memory by one instruction, at most; PTX or AMD GCN."""
    return max([*_ptx_widths(_PTX_STORE, assembly), *_amd_widths(_AMD_STORE, assembly)], default=0)


def _ptx_widths(pattern: re.Pattern[str], assembly: str) -> list[int]:
    return [int(count or 1) * int(bits) // 8 for count, bits in pattern.findall(assembly)]


def _amd_widths(pattern: re.Pattern[str], assembly: str) -> list[int]:
    """dwordx4 counts dwords, b128 bits."""
    return [
        int(count) // 8 if unit == "b" else _AMD_BYTES[unit] * int(count or 1)
        for unit, count in pattern.findall(assembly)
        if unit != "b" or count
    ]
