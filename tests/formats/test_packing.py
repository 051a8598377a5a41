"""Packed codes: the layout bit by bit against Python's integers, round trips, ragged rows, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrowgauge import formats
from narrowgauge.formats import pack, pack_trits, packed_nbytes, packed_trits_nbytes, unpack, unpack_trits

WIDTHS = range(1, 17)
SHAPES = [(0,), (1,), (7,), (8,), (9,), (33,), (3, 5), (2, 0), (2, 3, 11)]


def as_bit_string(codes: list[int], bits: int) -> bytes:
    """The layout in one expression: the row as one little-endian integer (two whole bytes a code above 8 bits)."""
    width = bits if bits <= 8 else 16
    whole = sum((code & (2**bits - 1)) << (width * i) for i, code in enumerate(codes))
    return whole.to_bytes(-(-len(codes) * width // 8), "little")


@pytest.mark.parametrize(
    ("codes", "bits", "packed"),
    [
        ([1, 0, 0, 0, 0, 0, 0, 1], 1, [0x81]),
        ([1, 2, 3, 0], 2, [0b00_11_10_01]),
        ([0x1, 0xE], 4, [0xE1]),  # the first code in the low nibble
        ([1, 2, 3, 4, 5, 6, 7, 0], 3, [0b11_010_001, 0b0_101_100_0, 0b000_111_11]),
        ([0b111111, 0, 0b101010, 1], 6, [0b00_111111, 0b1010_0000, 0b000001_10]),
        ([0x1F, 0, 0x1F], 5, [0x1F, 0x7C]),
        ([0x7F, 0x00], 7, [0x7F, 0x00]),
        ([0xAB], 8, [0xAB]),
        ([0x1FF, 0x001], 9, [0xFF, 0x01, 0x01, 0x00]),
        ([0xABCD], 16, [0xCD, 0xAB]),
        ([-1, -8, 7], 4, [0x8F, 0x07]),
        ([-1, -2, 1], 2, [0b01_10_11]),
    ],
)
def test_layout_golden(codes: list[int], bits: int, packed: list[int]) -> None:
    assert pack(codes, bits).tolist() == packed
    low = min(codes)
    assert unpack(np.array(packed, dtype=np.uint8), bits, len(codes), signed=low < 0).tolist() == codes


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_row_is_one_bit_string(bits: int, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    codes = rng.integers(0, 2**bits, shape)
    packed = pack(codes, bits)
    assert packed.dtype == np.uint8
    assert packed.shape == (*shape[:-1], packed_nbytes(shape[-1], bits))
    for row in np.ndindex(shape[:-1]):
        assert packed[row].tobytes() == as_bit_string(codes[row].tolist(), bits)


@given(st.data())
def test_round_trip(data: st.DataObject) -> None:
    bits = data.draw(st.integers(1, 16))
    signed = data.draw(st.booleans())
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    rows, count = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 40))
    values = data.draw(st.lists(st.integers(low, high), min_size=rows * count, max_size=rows * count))
    codes = np.array(values, dtype=np.int64).reshape(rows, count)
    again = unpack(pack(codes, bits), bits, count, signed=signed)
    assert np.array_equal(again, codes)
    assert again.dtype == (np.dtype("i1" if signed else "u1") if bits <= 8 else np.dtype("i2" if signed else "u2"))


@pytest.mark.parametrize("bits", WIDTHS)
def test_every_code_of_every_width(bits: int) -> None:
    codes = np.arange(2**bits)
    assert np.array_equal(unpack(pack(codes, bits), bits, codes.size), codes)
    signed = codes - 2 ** (bits - 1)
    assert np.array_equal(unpack(pack(signed, bits), bits, codes.size, signed=True), signed)


@pytest.mark.parametrize("name", ["e2m1fn", "int4", "bnb_fp4", "int3", "e2m3fn", "int2", "int6"])
def test_codes_of_formats_survive(name: str, rng: np.random.Generator) -> None:
    fmt = formats.get(name)
    codes = fmt.encode(rng.standard_normal((4, 19)) * fmt.max)
    again = unpack(pack(codes, fmt.bits), fmt.bits, 19, signed=codes.dtype.kind == "i")
    assert np.array_equal(again, codes)
    assert again.dtype == codes.dtype


def test_strided_input_and_padding_are_of_no_account(rng: np.random.Generator) -> None:
    codes = rng.integers(0, 8, (6, 10), dtype=np.uint8)
    assert np.array_equal(pack(codes.T[::2], 3), pack(np.ascontiguousarray(codes.T[::2]), 3))
    packed = pack(codes[:, :5], 3)
    assert (packed[:, -1] >> 7 == 0).all()  # 15 bits in two bytes
    assert np.array_equal(unpack(packed | np.uint8([0, 0x80]), 3, 5), codes[:, :5])


@pytest.mark.parametrize(
    ("count", "bits", "size"), [(0, 3, 0), (1, 1, 1), (9, 1, 2), (3, 6, 3), (4, 6, 3), (5, 12, 10)]
)
def test_packed_size(count: int, bits: int, size: int) -> None:
    assert packed_nbytes(count, bits) == size


@pytest.mark.parametrize("shape", [(0,), (1,), (5,), (6,), (4, 13)])
def test_trits_round_trip_in_base_three(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    codes = rng.integers(0, 3, shape)
    packed = pack_trits(codes)
    assert packed.shape == (*shape[:-1], packed_trits_nbytes(shape[-1]))
    assert np.array_equal(unpack_trits(packed, shape[-1]), codes)


def test_every_byte_of_trits() -> None:
    codes = np.stack(np.meshgrid(*[np.arange(3)] * 5, indexing="ij"), axis=-1).reshape(-1, 5)[:, ::-1]
    packed = pack_trits(codes)
    assert packed.reshape(-1).tolist() == list(range(243))
    assert np.array_equal(unpack_trits(packed, 5), codes)
    assert pack_trits([2, 1]).tolist() == [5]


def test_ternary_codes_pack_five_to_a_byte(rng: np.random.Generator) -> None:
    fmt = formats.get("ternary")
    x = rng.standard_normal(1000)
    packed = pack_trits(fmt.encode(x))
    assert packed.size == 200
    assert np.array_equal(fmt.decode(unpack_trits(packed, 1000)), fmt.round(x))


@pytest.mark.parametrize(
    ("codes", "bits", "message"),
    [
        ([16], 4, r"^codes: got values in \[16, 16\], accepted for 4 bits: 0 to 15, or -8 to 7"),
        ([-9], 4, r"^codes: got values in \[-9, -9\]"),
        ([-1, 8], 4, r"^codes: got values in \[-1, 8\]"),
        ([0], 0, r"^bits: got 0, accepted: 1 to 16"),
        ([0], 17, r"^bits: got 17, accepted: 1 to 16"),
        (3, 4, r"^codes: got a scalar"),
    ],
)
def test_pack_refuses(codes: object, bits: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pack(codes, bits)


def test_unpack_refuses_other_sizes_and_types() -> None:
    with pytest.raises(
        ValueError, match=r"^packed: got 2 bytes in a row, accepted for 3 codes of 4 bits: 2$|got 3 byt"
    ):
        unpack(np.zeros(3, np.uint8), 4, 3)
    with pytest.raises(TypeError, match=r"^packed: got dtype int64, accepted: uint8"):
        unpack(np.zeros(2, np.int64), 4, 3)
    with pytest.raises(TypeError, match=r"^codes: got dtype float64, accepted: integers"):
        pack([1.0], 4)
    with pytest.raises(ValueError, match=r"^count: got -1, accepted: 0 or more"):
        unpack(np.zeros(0, np.uint8), 4, -1)


def test_trits_refuse_what_is_not_a_trit() -> None:
    with pytest.raises(ValueError, match=r"^codes: got values in \[0, 3\], accepted for trits: 0, 1, 2"):
        pack_trits([0, 3])
    with pytest.raises(ValueError, match=r"^codes: got values in \[-1, 0\]"):
        pack_trits([-1, 0])
    with pytest.raises(ValueError, match=r"^packed: got a byte 243, accepted: 0 to 242"):
        unpack_trits(np.uint8([243]), 5)
    with pytest.raises(ValueError, match=r"^packed: got 1 bytes in a row, accepted for 6 trits: 2"):
        unpack_trits(np.uint8([0]), 6)
    with pytest.raises(ValueError, match=r"^count: got -1"):
        packed_trits_nbytes(-1)
