"""Against ml_dtypes: every code, and every way to round a float32 that has ever been wrong somewhere."""

from __future__ import annotations

import numpy as np
import pytest

from narrowgauge import formats
from narrowgauge.formats import FloatFormat
from oracles import ML_DTYPES, ML_INTEGERS, differences, hard_inputs, same


@pytest.mark.parametrize("name", ML_DTYPES)
def test_decode_equals_ml_dtypes_on_every_code(name: str) -> None:
    fmt = formats.get(name)
    with np.errstate(invalid="ignore"):  # signalling NaN
        expected = fmt.all_codes().view(ML_DTYPES[name]).astype(np.float64)
    assert same(fmt.values(), expected)


@pytest.mark.parametrize("name", ML_INTEGERS)
def test_integers_are_those_of_ml_dtypes(name: str) -> None:
    fmt = formats.get(name)
    assert same(fmt.values(), fmt.all_codes().astype(ML_INTEGERS[name]).astype(np.float64))


def comparable(fmt: FloatFormat, x: np.ndarray) -> np.ndarray:
    """Without the inputs of known contradictions: two kinds with e8m0fnu, and the NaN payloads that numpy keeps."""
    if fmt.name == "e8m0fnu":
        with np.errstate(invalid="ignore"):
            tie, lowest = np.frexp(x)[0] == 0.75, (x > 2.0**-127) & (x < 2.0**-126)
        return x[~tie & ~lowest]
    return x[~np.isnan(x)] if fmt.name == "fp16" else x


@pytest.mark.parametrize("name", ML_DTYPES)
def test_codes_equal_ml_dtypes_on_all_16_bit_inputs_around_every_value_and_on_a_million_more(name: str) -> None:
    fmt = formats.get(name)
    x = comparable(fmt, hard_inputs(fmt))
    with np.errstate(all="ignore"):
        expected = x.astype(ML_DTYPES[name]).view(fmt.code_dtype)
    codes = fmt.encode(x, overflow="nonsaturating")
    assert not differences(codes, expected, x)


def test_a_difference_in_one_code_is_noticed() -> None:
    x, codes = np.array([1.0, 2.0]), np.array([3, 4])
    assert not differences(codes, codes, x)
    assert differences(codes, np.array([3, 5]), x) == "1 of 2 differ: np.float64(2.0): np.int64(4), theirs np.int64(5)"
    assert not same(np.array([0.0]), np.array([-0.0]))
