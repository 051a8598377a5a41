"""What records say of themselves, and how their bytes are cut."""

import numpy as np
import pytest

from narrowgauge.priors.coding import coder
from narrowgauge.priors.coding.record import (
    SIGNED,
    Coded,
    Sections,
    checked_values,
    named_type,
    narrowest,
    payload_of,
    whole,
)


def test_sections_are_the_parts_of_a_payload():
    payload = payload_of(np.array([1, -2], dtype="<i2"), np.array([7], dtype="<u4"), np.array([9], dtype=np.uint8))
    sections = Sections(payload)
    assert sections.take(np.dtype("<i2"), 2).tolist() == [1, -2]
    assert sections.take(np.dtype("<u4"), 1).tolist() == [7]
    with pytest.raises(ValueError, match="ends too early: 1 bytes"):
        sections.take(np.dtype("<i2"), 1)
    assert sections.rest().tolist() == [9]


def test_tables_take_the_narrowest_type():
    assert narrowest(np.array([-128, 127]), SIGNED).dtype == np.int8
    assert narrowest(np.array([128]), SIGNED).dtype == np.int16
    assert narrowest(np.array([2**63 - 1]), SIGNED).dtype == np.int64
    assert narrowest(np.zeros(0, dtype=np.int64), SIGNED).dtype == np.int8
    with pytest.raises(ValueError, match="70000"):
        narrowest(np.array([70000]), ("<u2",))


def test_integers_and_types_of_a_description_are_checked():
    assert whole({"n": 3}, "n", 0, 3) == 3
    for value in (None, 4, -1, True, 2.0, "3"):
        with pytest.raises(ValueError, match="n: got"):
            whole({"n": value}, "n", 0, 3)
    assert named_type({"t": "<i2"}, "t", SIGNED) == np.int16
    for value in (None, "<u2", 7):
        with pytest.raises(ValueError, match="t: got"):
            named_type({"t": value}, "t", SIGNED)


def test_tables_of_symbols_are_checked():
    with pytest.raises(ValueError, match="does not hold"):
        checked_values(np.array([300]), np.dtype(np.uint8))
    with pytest.raises(ValueError, match="twice"):
        checked_values(np.array([3, 3]), np.dtype(np.uint8))


def test_a_record_is_json_and_bytes():
    coded = coder("huffman").encode(np.array([1, 1, 2], dtype=np.int16))
    assert coded.bits_per_symbol == 1.0
    again = Coded.from_dict(coded.to_dict(), coded.payload)
    assert again.to_dict() == coded.to_dict()
    assert coder("huffman").encode([]).bits_per_symbol == 0.0
    for entry in (None, [], {}, coded.to_dict() | {"entropy": "much"}, coded.to_dict() | {"distinct": 4}):
        with pytest.raises(ValueError, match=r"got|expected"):
            Coded.from_dict(entry, coded.payload)
