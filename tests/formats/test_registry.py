"""Names: what is registered, what a pattern gives, and what an unknown name is told."""

from __future__ import annotations

import re

import pytest

from narrowgauge import formats
from narrowgauge.formats import BlockFormat, Format, IntFormat

EXPECTED = [
    *["e4m3fn", "e5m2", "e4m3", "e3m4", "e4m3fnuz", "e5m2fnuz", "e4m3b11fnuz", "e8m0fnu", "e2m3fn", "e3m2fn"],
    *["e2m1fn", "e1m2", "fp16", "bf16", "rf8", "nf4"],
    *["int8", "int4", "uint8", "uint4", "int8_full", "int4_full"],
    *["mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp4", "mxint8", "nvfp4"],
    *[f"binary8p{p}s{domain}" for p in range(1, 8) for domain in "ef"],
]


def test_every_expected_format_is_registered() -> None:
    assert set(EXPECTED) <= set(formats.names())


@pytest.mark.parametrize("name", EXPECTED)
def test_a_name_gives_the_format_of_that_name(name: str) -> None:
    fmt = formats.get(name)
    assert fmt.name == name
    assert isinstance(fmt, Format | BlockFormat)
    assert formats.get(fmt) is fmt


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("float16", "fp16"),
        ("half", "fp16"),
        ("bfloat16", "bf16"),
        ("mxfp8", "mxfp8_e4m3"),
        ("mxfp6", "mxfp6_e2m3"),
    ],
)
def test_aliases(alias: str, name: str) -> None:
    assert formats.get(alias) is formats.get(name)
    assert alias not in formats.names()


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("e4m3f", "e4m3fn"),
        ("E4M3FN", "e4m3fn"),
        ("mxfp5", "mxfp4"),
        ("in8", "int8"),
        ("bfloat", "bfloat16"),
        ("zzzz", "known: e4m3fn, e5m2"),
    ],
)
def test_an_unknown_name_is_told_the_nearest(wrong: str, hint: str) -> None:
    with pytest.raises(ValueError, match=rf"^format: unknown name '{wrong}'; .*{re.escape(hint)}"):
        formats.get(wrong)


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match=r"^name: expected a string or a format, got int"):
        formats.get(8)  # type: ignore[arg-type]


def test_a_name_cannot_be_taken_twice() -> None:
    with pytest.raises(ValueError, match=r"^name: 'int8' is already registered for a different format"):
        formats.register(IntFormat(name="int8", width=8, restricted=False))
    with pytest.raises(ValueError, match=r"^name: 'half' is already registered"):
        formats.register(IntFormat(name="half", width=8))
    with pytest.raises(ValueError, match=r"^name: 'e5m2' is already registered"):
        formats.register(IntFormat(name="new", width=8), "e5m2")
    assert "new" not in formats.names()


def test_registering_the_same_again_changes_nothing() -> None:
    before = formats.names()
    for name in before:
        formats.register(formats.get(name))
    formats.register(formats.rf8())
    assert formats.names() == before


@pytest.mark.parametrize("name", ["q0.0", "q40.2", "rf8b999", "binary8p9", "binary99p3"])
def test_a_pattern_with_impossible_numbers_says_which_are_possible(name: str) -> None:
    with pytest.raises(ValueError, match=r"takes|bits 3\.\.16"):
        formats.get(name)
