"""Codes narrower than a byte, packed along the last axis into bytes and back.

One layout serves every width b from 1 to 8. A row is one string of bits, least significant first: code i is bits
b · i … b · i + b - 1 of it, and bit j of the string is bit j mod 8 of byte j div 8. So

    1 bit   8 codes in a byte, the first in bit 0          5 bits  8 codes in 5 bytes
    2 bits  4 codes in a byte, the first in bits 0 and 1   6 bits  4 codes in 3 bytes
    3 bits  8 codes in 3 bytes                             7 bits  8 codes in 7 bytes
    4 bits  2 codes in a byte, the first in the low nibble 8 bits  the codes themselves

The nibble order is that of OCP MX and torch's float4_e2m1fn_x2 (bitsandbytes puts the first code into the high
nibble). Rows are padded with zero bits to whole bytes. Codes of 9 to 16 bits are not packed: each takes two bytes, the
low one first. Negative codes are stored in two's complement of b bits.

Ternary codes also pack five to a byte, in base 3: c0 + 3 c1 + 9 c2 + 27 c3 + 81 c4, at most 242 (1.6 bits a code, of
the log2 3 = 1.585 that they hold).
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

N = TypeVar("N", bound=np.integer)
Bytes = NDArray[np.uint8]

WIDEST = 16
TRITS_PER_BYTE = 5
_GROUP = 8
"""Codes that are packed together: eight codes of b bits are b whole bytes, and fit a 64-bit word."""
_TRIT_WEIGHTS = 3 ** np.arange(TRITS_PER_BYTE)


def packed_nbytes(count: int, bits: int) -> int:
    """Bytes of a row of `count` codes of `bits` bits (1 to 16); ValueError for other widths or a negative count."""
    _check_width(bits)
    if count < 0:
        raise ValueError(f"count: got {count}, accepted: 0 or more")
    return -(-count * bits // 8) if bits <= 8 else 2 * count


def pack(codes: ArrayLike, bits: int) -> Bytes:
    """Integer codes [..., n] as uint8 [..., packed_nbytes(n, bits)].

    Codes lie in 0 to 2^bits - 1, or in -2^(bits - 1) to 2^(bits - 1) - 1 where some are negative. Raises TypeError for
    codes that are not integers, ValueError for codes out of range, scalars and widths other than 1 to 16.
    """
    _check_width(bits)
    array = _code_array(codes)
    if array.size:
        low, high = int(array.min()), int(array.max())
        if low < -(2 ** (bits - 1)) or high >= 2 ** (bits - int(low < 0)):
            raise ValueError(
                f"codes: got values in [{low}, {high}], accepted for {bits} bits: 0 to {2**bits - 1}, "
                f"or {-(2 ** (bits - 1))} to {2 ** (bits - 1) - 1}"
            )
    # Through int64 first: the two's complement of a negative code is its low bits.
    words = (array.astype(np.int64) & (2**bits - 1)).astype(np.uint64)
    count = array.shape[-1]
    if bits > 8:
        return words.astype("<u2").view(np.uint8)
    grouped = _padded(words, _GROUP)
    shifts = np.arange(_GROUP, dtype=np.uint64) * np.uint64(bits)
    word = np.bitwise_or.reduce(grouped << shifts, axis=-1).astype("<u8")
    whole = word[..., np.newaxis].view(np.uint8)[..., :bits]
    row = whole.reshape(*array.shape[:-1], whole.shape[-2] * bits)
    return np.ascontiguousarray(row[..., : packed_nbytes(count, bits)])


def unpack(packed: ArrayLike, bits: int, count: int, signed: bool = False) -> NDArray[np.integer]:
    """The `count` codes of each row of `packed`, uint8 [..., packed_nbytes(count, bits)].

    The result is uint8 (uint16 above 8 bits) [..., count]; with `signed`, int8 or int16 read as two's complement of
    `bits` bits. Raises TypeError unless `packed` is uint8, ValueError unless its last axis has that many bytes.
    """
    array = _byte_array(packed)
    _check_row(array, packed_nbytes(count, bits), f"{count} codes of {bits} bits")
    if bits > 8:
        words = np.ascontiguousarray(array).view("<u2").astype(np.int64)
    else:
        grouped = _padded(array, bits)
        word = np.zeros((*grouped.shape[:-1], 8), dtype=np.uint8)
        word[..., :bits] = grouped
        shifts = np.arange(_GROUP, dtype=np.uint64) * np.uint64(bits)
        codes = (word.view("<u8") >> shifts) & np.uint64(2**bits - 1)
        words = codes.reshape(*array.shape[:-1], codes.shape[-2] * _GROUP)[..., :count].astype(np.int64)
    if signed:
        words = np.where(words >= 2 ** (bits - 1), words - 2**bits, words)
    kind = ("i" if signed else "u") + ("1" if bits <= 8 else "2")
    return words.astype(kind)


def packed_trits_nbytes(count: int) -> int:
    """Bytes of a row of `count` ternary codes, five to a byte."""
    if count < 0:
        raise ValueError(f"count: got {count}, accepted: 0 or more")
    return -(-count // TRITS_PER_BYTE)


def pack_trits(codes: ArrayLike) -> Bytes:
    """Codes 0, 1, 2 [..., n] in base 3, the first least significant: uint8 [..., packed_trits_nbytes(n)], padded with
    zeros. Raises TypeError for codes that are not integers, ValueError for other codes and scalars."""
    array = _code_array(codes)
    if array.size and (int(array.min()) < 0 or int(array.max()) > 2):
        raise ValueError(f"codes: got values in [{array.min()}, {array.max()}], accepted for trits: 0, 1, 2")
    return (_padded(array.astype(np.int64), TRITS_PER_BYTE) @ _TRIT_WEIGHTS).astype(np.uint8)


def unpack_trits(packed: ArrayLike, count: int) -> Bytes:
    """The `count` codes of each row of `packed`, uint8 [..., packed_trits_nbytes(count)], as uint8 [..., count].

    Raises TypeError unless `packed` is uint8, ValueError for another number of bytes and for bytes above 242, which
    hold no five trits.
    """
    array = _byte_array(packed)
    _check_row(array, packed_trits_nbytes(count), f"{count} trits")
    if array.size and int(array.max()) >= 3**TRITS_PER_BYTE:
        raise ValueError(f"packed: got a byte {array.max()}, accepted: 0 to {3**TRITS_PER_BYTE - 1}, five trits each")
    trits = array[..., np.newaxis].astype(np.int64) // _TRIT_WEIGHTS % 3
    return trits.reshape(*array.shape[:-1], array.shape[-1] * TRITS_PER_BYTE)[..., :count].astype(np.uint8)


def _check_width(bits: int) -> None:
    if not 1 <= bits <= WIDEST:
        raise ValueError(f"bits: got {bits}, accepted: 1 to {WIDEST}")


def _code_array(codes: ArrayLike) -> NDArray[np.integer]:
    array = np.asarray(codes)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"codes: got dtype {array.dtype}, accepted: integers")
    return _at_least_a_row(array, "codes")


def _byte_array(packed: ArrayLike) -> Bytes:
    array = np.asarray(packed)
    if array.dtype != np.uint8:
        raise TypeError(f"packed: got dtype {array.dtype}, accepted: uint8")
    return _at_least_a_row(array, "packed")


def _at_least_a_row(array: NDArray[N], argument: str) -> NDArray[N]:
    if array.ndim == 0:
        raise ValueError(
            f"{argument}: got a scalar, accepted: arrays of at least one axis, the last of which is packed"
        )
    return array


def _check_row(array: Bytes, expected: int, content: str) -> None:
    if array.shape[-1] != expected:
        raise ValueError(f"packed: got {array.shape[-1]} bytes in a row, accepted for {content}: {expected}")


def _padded(array: NDArray[N], group: int) -> NDArray[N]:
    """[..., n] as [..., ceil(n / group), group], with zeros at the end."""
    count = array.shape[-1]
    groups = -(-count // group)
    padded = np.zeros((*array.shape[:-1], groups * group), dtype=array.dtype)
    padded[..., :count] = array
    return padded.reshape(*array.shape[:-1], groups, group)
