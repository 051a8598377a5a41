"""Schemes: the text form says everything there is, and what a scheme cannot mean is refused by argument."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrowgauge import formats
from narrowgauge.formats import BlockFormat, CodebookFormat, FloatFormat, Format, ScaleRule, Scheme, parse
from narrowgauge.formats.block import TWO_LEVEL_RULES
from narrowgauge.formats.clipping import SAWB

SCALARS = [name for name in formats.names() if isinstance(formats.get(name), Format) and formats.get(name).has_zero]
BLOCKS = [name for name in formats.names() if isinstance(formats.get(name), BlockFormat)]
PATTERNS = ["q3.4", "rf8b12", "rf8b-3", "binary6p3se", "binary8p3ue"]
SIDES = st.one_of(st.none(), st.integers(1, 4096))
VALUES = {
    ScaleRule.STATIC: st.floats(2.0**-126, 2.0**126),
    ScaleRule.PERCENTILE: st.floats(0, 100, exclude_min=True),
}


@st.composite
def scalar_schemes(draw: st.DrawFn) -> Scheme:
    fmt = formats.get(draw(st.sampled_from(SCALARS + PATTERNS)))
    refused = {ScaleRule.EVEN} if isinstance(fmt, CodebookFormat) else set()
    refused |= set() if fmt.name in SAWB else {ScaleRule.SAWB}
    rules = [rule for rule in ScaleRule if rule not in refused]
    rule = draw(st.sampled_from(rules))
    value = draw(VALUES[rule]) if rule in VALUES else None
    flush = isinstance(fmt, FloatFormat) and fmt.subnormals and draw(st.booleans())
    return Scheme(fmt, (draw(SIDES), draw(SIDES)), rule, value, draw(st.booleans()), flush)


@st.composite
def block_schemes(draw: st.DrawFn) -> Scheme:
    fmt = formats.get(draw(st.sampled_from(BLOCKS)))
    rules = TWO_LEVEL_RULES if fmt.two_level else [rule for rule in ScaleRule if rule.power_of_two]
    return Scheme(fmt, fmt.tile, draw(st.sampled_from(rules)), None, draw(st.booleans()))


@given(st.one_of(scalar_schemes(), block_schemes()))
def test_parse_reads_back_what_str_writes(scheme: Scheme) -> None:
    assert parse(str(scheme)) == scheme
    assert str(parse(str(scheme))) == str(scheme)
    assert hash(parse(str(scheme))) == hash(scheme)


@pytest.mark.parametrize("name", SCALARS + BLOCKS)
def test_a_bare_name_is_the_default_of_its_format(name: str) -> None:
    scheme = parse(name)
    assert str(scheme) == name
    assert not scheme.stochastic
    assert scheme.granularity == (scheme.format.granularity if name in BLOCKS else "tensor")
    assert scheme.rule is (scheme.format.rule if name in BLOCKS else scheme.format.default_rule)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("half/row", "fp16/row"),
        ("mxfp8", "mxfp8_e4m3"),
        ("mxfp8/1x32:rceil", "mxfp8_e4m3"),
        ("nvfp4:amax+sr", "nvfp4+sr"),
        (" e4m3fn/tensor:amax ", "e4m3fn"),
        ("e4m3fn/1x1", "e4m3fn/1x1"),
        ("e4m3fn/1xall", "e4m3fn/row"),
        ("int8/32x32:static=0.50+sr", "int8/32x32:static=0.5+sr"),
        ("int8:static=1e+20+sr", "int8:static=1e+20+sr"),
        ("int8:static=1e-05", "int8:static=1e-05"),
        ("binary8p3/row", "binary8p3se/row"),
    ],
)
def test_other_spellings(text: str, canonical: str) -> None:
    assert str(parse(text)) == canonical


def test_fields_of_a_parsed_scheme() -> None:
    scheme = parse("e4m3fn/1x128:pow2+sr")
    assert scheme == Scheme(formats.get("e4m3fn"), (1, 128), ScaleRule.POW2, None, True)
    assert (scheme.element, scheme.scale_bits) == (formats.get("e4m3fn"), 32)
    block = parse("nvfp4")
    assert (block.element, block.scale_bits) == (formats.get("e2m1fn"), 8)
    assert parse(scheme) is scheme


@pytest.mark.parametrize(
    ("text", "shape", "expected"),
    [
        ("int8", (6, 10), (1, 1)),
        ("int8", (2, 3, 10), (1, 1)),
        ("int8", (), (1, 1)),
        ("int8/row", (6, 10), (6, 1)),
        ("int8/row", (2, 3, 10), (2, 3, 1)),
        ("int8/row", (10,), (1, 1)),
        ("int8/row", (), (1, 1)),
        ("int8/col", (6, 10), (1, 10)),
        ("int8/col", (2, 3, 10), (1, 10)),
        ("int8/1x4", (6, 10), (6, 3)),
        ("int8/1x4", (2, 3, 10), (2, 3, 3)),
        ("int8/4x4", (6, 10), (2, 3)),
        ("int8/4x4", (2, 3, 10), (2, 3)),
        ("int8/4x4", (0, 10), (0, 3)),
        ("int8/row", (0, 10), (0, 1)),
        ("int8/1x4", (3, 0), (3, 0)),
        ("mxfp4", (3, 70), (3, 3)),
        ("nvfp4", (70,), (1, 5)),
    ],
)
def test_scale_shapes(text: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert parse(text).scale_shape(shape) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("e4m3f/row", "format: unknown name 'e4m3f'; nearest: e4m3fn"),
        ("e4m3fn/rows", "granularity: got 'rows', accepted: tensor, row, col, RxC as 1x128"),
        ("e4m3fn/0x4", "granularity: got '0x4'"),
        (
            "e4m3fn:pow",
            "rule: got 'pow', accepted: amax, floor, ceil, rceil, even, pow2, static, percentile, mse, sawb; did",
        ),
        ("e4m3fn:sawb", "rule: 'sawb' has coefficients for int2, int4, int7, int8, got e4m3fn"),
        ("e4m3fn:static", "rule: 'static' and 'percentile' go with a number, others without"),
        ("e4m3fn:static=", "rule: 'static' and 'percentile' go with a number, others without"),
        ("e4m3fn:amax=3", "rule: 'static' and 'percentile' go with a number, others without"),
        ("e4m3fn:static=much", "rule: 'much' in 'static=much' is not a number"),
        ("e4m3fn:static=0", "static: a scale lies in 2^-126 to 2^126, got 0.0"),
        ("e4m3fn:static=-1", "static: a scale lies in 2^-126 to 2^126, got -1.0"),
        ("e4m3fn:static=nan", "static: a scale lies in 2^-126 to 2^126, got nan"),
        ("e4m3fn:static=1e39", "static: a scale lies in 2^-126 to 2^126, got 1e+39"),
        ("e4m3fn:static=1e-40", "static: a scale lies in 2^-126 to 2^126, got 1e-40"),
        ("e4m3fn+rht16", "scheme: unknown option 'rht16' in 'e4m3fn+rht16'; accepted: sr"),
        ("e4m3fn/row/row", "scheme: 'e4m3fn/row/row' is not 'format[/granularity][:rule][+option]'"),
        ("", "scheme: '' is not 'format[/granularity][:rule][+option]', for example 'e4m3fn/row+sr'"),
        ("e4m3fn+", "scheme: 'e4m3fn+' is not"),
        ("e8m0fnu", "format: e8m0fnu has no zero, it holds scales, not elements"),
        ("mxfp4/row", "granularity: mxfp4 fixes its blocks at 1x32, got row"),
        ("nvfp4/1x32", "granularity: nvfp4 fixes its blocks at 1x16, got 1x32"),
        ("mxfp4:amax", "rule: mxfp4 has power-of-two scales, got 'amax'"),
        ("mxfp4:static=1", "rule: mxfp4 has power-of-two scales, got 'static'"),
        ("nvfp4:pow2", "rule: nvfp4 takes the rules 'amax' and 'rceil', got 'pow2'"),
        ("nf4:even", "rule: 'even' rounds amax to the element's mantissa bits, which nf4 does not have"),
    ],
)
def test_what_a_text_cannot_mean_is_said(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        parse(text)


def test_what_a_scheme_cannot_be_is_said() -> None:
    fmt = formats.get("int8")
    with pytest.raises(ValueError, match=r"^tile: sides are at least 1, got \(0, 4\)"):
        Scheme(fmt, (0, 4))
    with pytest.raises(ValueError, match=r"^rule: 'static' and 'percentile' go with a number"):
        Scheme(fmt, value=2.0)
    with pytest.raises(TypeError, match=r"^format: expected a Format or a BlockFormat, got str"):
        Scheme("int8")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^scheme: expected a string or a Scheme, got int"):
        parse(8)
