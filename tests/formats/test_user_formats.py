"""Formats that a user makes: derived names, names made known by use, and the same contract as the registered ones."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrowgauge import formats
from narrowgauge.formats import CodebookFormat, FloatFormat, IntFormat, Scheme, parse, quantize_reference

FLAGS = st.fixed_dictionaries(
    {
        "exponent_bits": st.integers(1, 5),
        "mantissa_bits": st.integers(0, 4),
        "bias": st.integers(-20, 20),
        "is_signed": st.booleans(),
        "subnormals": st.booleans(),
        "zero_at_bottom": st.booleans(),
        "has_infinity": st.booleans(),
        "nan_codes": st.integers(0, 3),
        "nan_at_negative_zero": st.booleans(),
        "overflow_to_nan": st.booleans(),
    }
)


@given(FLAGS)
def test_a_minifloat_without_a_name_is_called_after_its_parameters(flags: dict[str, int]) -> None:
    try:
        fmt = FloatFormat(**flags)
    except ValueError:
        return  # parameters that exclude one another
    assert formats.get(fmt.name) == fmt


def test_bias_is_that_of_ieee_unless_said() -> None:
    assert FloatFormat(exponent_bits=5, mantissa_bits=10, has_infinity=True, nan_codes=1023).bias == 15
    assert FloatFormat(exponent_bits=1, mantissa_bits=2).bias == 0
    assert FloatFormat(exponent_bits=3, mantissa_bits=2, bias=-2).name == "e3m2b-2"


def test_integers_and_codebooks_get_names_too() -> None:
    assert IntFormat(width=6).name == "int6"
    assert IntFormat(width=8, fraction_bits=3, restricted=False).name == "int8f3_full"
    assert formats.get("int8f3_full") == IntFormat(width=8, fraction_bits=3, restricted=False)
    one, other = CodebookFormat.from_values([0, 1, 3]), CodebookFormat.from_values([0, 1, 4])
    assert one.name != other.name
    assert one == CodebookFormat.from_values(np.array([0, 1, 3]))


def test_codebook_from_an_array_holds_float32_numbers() -> None:
    fmt = CodebookFormat.from_values([0.1, -0.2, float("nan"), 3.0], name="mine_from_array")
    assert fmt.table[0] == float(np.float32(0.1))
    assert np.isnan(fmt.decode(2))
    with pytest.raises(ValueError, match=r"^values: got 1e\+39, accepted: numbers that float32 holds"):
        CodebookFormat.from_values([1e39, 0.0])


def test_a_scheme_makes_the_name_of_its_format_known() -> None:
    fmt = CodebookFormat.from_values([-2, -0.5, 0, 0.25, 1, 4], name="only_used_here")
    with pytest.raises(ValueError, match="unknown name 'only_used_here'"):
        formats.get("only_used_here")
    scheme = Scheme(fmt, (1, None))
    assert parse(str(scheme)) == scheme == parse("only_used_here/row")
    assert "only_used_here" not in formats.names()
    x = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    assert set(np.unique(quantize_reference(x, "only_used_here").codes)) <= set(range(6))


def test_a_name_means_one_format() -> None:
    Scheme(CodebookFormat.from_values([0, 1], name="taken_once"))
    with pytest.raises(ValueError, match=r"^name: 'taken_once' already means a different format; give this"):
        Scheme(CodebookFormat.from_values([0, 2], name="taken_once"))
    with pytest.raises(ValueError, match="already means a different format"):
        Scheme(FloatFormat(name="int8", exponent_bits=4, mantissa_bits=3))
    with pytest.raises(ValueError, match=r"^name: 'a/b' holds one of"):
        Scheme(CodebookFormat.from_values([0, 1], name="a/b"))


def test_a_scheme_from_another_process_brings_its_format(tmp_path: object) -> None:
    scheme = Scheme(CodebookFormat.from_values([0, 1, 7], name="travels"), (1, None))
    code = f"import pickle; s = pickle.loads({pickle.dumps(scheme)!r}); from narrowgauge.formats import parse; " + (
        "assert parse('travels/row') == s; print(s)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_env())
    assert done.stdout.strip() == "travels/row"


def _env() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def test_block_formats_of_ones_own() -> None:
    fmt = formats.BlockFormat(
        name="mine_in_blocks",
        element=CodebookFormat.from_values([-1, -0.3, 0, 0.3, 1]),
        scale_format=formats.get("e8m0fnu"),
        block_size=8,
        rule=formats.ScaleRule.RCEIL,
    )
    x = np.random.default_rng(1).standard_normal((2, 20)).astype(np.float32)
    q = quantize_reference(x, Scheme(fmt, fmt.tile, fmt.rule))
    assert q.scale.shape == (2, 3)
    assert np.abs(q.dequantize() - x).max() < np.abs(x).max()
    assert str(q.scheme) == "mine_in_blocks"


@pytest.mark.parametrize("value", ["flush", "flush_input", "gradual"])
def test_subnormals_are_flushed_only_where_asked(value: str) -> None:
    fmt = formats.get("e4m3fn")
    normal, sub = fmt.smallest_normal, fmt.smallest_subnormal
    x = np.array([sub, -sub, normal, np.nextafter(normal, 0), normal - sub / 2, normal - sub, 0.0, -0.0, 1.0])
    q = fmt.round(x, subnormals=value)
    expected = {
        # The last but one below normal and the tie round up to the smallest normal value, which stays.
        "gradual": [sub, -sub, normal, normal, normal, normal - sub, 0.0, -0.0, 1.0],
        "flush": [0.0, -0.0, normal, normal, normal, 0.0, 0.0, -0.0, 1.0],
        "flush_input": [0.0, -0.0, normal, 0.0, 0.0, 0.0, 0.0, -0.0, 1.0],
    }[value]
    assert np.array_equal(q, expected)
    assert np.array_equal(np.signbit(q), np.signbit(expected))


def test_flushing_is_an_option_of_schemes() -> None:
    x = np.array([[448.0, 2.0**-7, -(2.0**-9), 2.0**-6]], np.float32)
    assert quantize_reference(x, "e4m3fn+ftz").dequantize().tolist() == [[448.0, 0.0, -0.0, 2.0**-6]]
    assert str(parse("e4m3fn/row:amax+ftz+sr")) == "e4m3fn/row+sr+ftz"
    with pytest.raises(ValueError, match=r"^flush: int8 has no subnormal values to flush"):
        parse("int8+ftz")


def test_nan_can_be_an_error_in_any_format() -> None:
    with pytest.raises(ValueError, match=r"^x: 1 NaN of 2 values, and nan='raise'"):
        formats.get("e4m3fn").encode([1.0, np.nan], nan="raise")
