"""`Scheme`: format × granularity × scale rule × rounding, with a one-line text form.

    format[/granularity][:rule][+option]*     e4m3fn  e4m3fn/row  e4m3fn/1x128  e4m3fn/128x128:pow2  int8/32x32+sr

Granularities: `tensor` (default), `row`, `col`, `RxC` (tiles of R rows and C columns, of which one may be
`all`; ragged edges take their own amax). Rows are everything but the last axis. Block formats (mxfp8, nvfp4)
bring their own granularity. Options: `sr` rounds stochastically, `ftz` flushes subnormal results to zero.
`parse(str(scheme)) == scheme`: a format that is not registered gets its name known by being used in a scheme.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod
from typing import Any

from narrowgauge.formats.block import TWO_LEVEL_RULES, BlockFormat
from narrowgauge.formats.clipping import SAWB
from narrowgauge.formats.floats import FloatFormat
from narrowgauge.formats.format import Format
from narrowgauge.formats.registry import get, intern
from narrowgauge.formats.rounding import choice
from narrowgauge.formats.scaling import SMALLEST_SCALE, ScaleRule, exponent_parameters
from narrowgauge.formats.tiles import Tile, tile_count, tile_from_text, tile_text


@dataclass(frozen=True)
class Scheme:
    """How a tensor is quantised. `tile`: rows and columns that share a scale, None for all of them. `value`: the number
    of the rules `static` and `percentile`, else None."""

    format: Format | BlockFormat
    tile: Tile = (None, None)
    rule: ScaleRule = ScaleRule.AMAX
    value: float | None = None
    stochastic: bool = False
    flush: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.format, Format | BlockFormat):
            raise TypeError(f"format: expected a Format or a BlockFormat, got {type(self.format).__name__}")
        if any(side is not None and side < 1 for side in self.tile):
            raise ValueError(f"tile: sides are at least 1, got {self.tile}")
        self._check_value()
        if isinstance(self.format, BlockFormat):
            self._check_block(self.format)
        elif isinstance(self.format, FloatFormat) and not self.format.has_zero:
            raise ValueError(f"format: {self.format.name} has no zero, it holds scales, not elements")
        if self.rule.power_of_two:
            exponent_parameters(self.element, self.rule)  # refuses a rule that the element cannot have
        if self.flush and not (isinstance(self.element, FloatFormat) and self.element.subnormals):
            raise ValueError(f"flush: {self.element.name} has no subnormal values to flush")
        if any(sign in self.format.name for sign in "/:+"):
            raise ValueError(f"name: {self.format.name!r} holds one of / : +, which separate the parts of a scheme")
        intern(self.format)

    def __reduce__(self) -> tuple[Any, ...]:
        # Through the constructor, which makes the format's name known in the process that reads the copy.
        return Scheme, (self.format, self.tile, self.rule, self.value, self.stochastic, self.flush)

    def _check_value(self) -> None:
        if self.rule.takes_value != (self.value is not None):
            raise ValueError(
                f"rule: 'static' and 'percentile' go with a number, others without, got rule={self.rule}, "
                f"value={self.value}"
            )
        if self.rule is ScaleRule.STATIC and not SMALLEST_SCALE <= (self.value or 0.0) <= 1 / SMALLEST_SCALE:
            raise ValueError(f"static: a scale lies in 2^-126 to 2^126, got {self.value}")
        if self.rule is ScaleRule.PERCENTILE and not 0 < (self.value or 0.0) <= 100:
            raise ValueError(f"percentile: got {self.value}, accepted: above 0 and at most 100")
        if self.rule is ScaleRule.SAWB and self.format.name not in SAWB:
            raise ValueError(f"rule: 'sawb' has coefficients for {', '.join(SAWB)}, got {self.format.name}")

    def _check_block(self, fmt: BlockFormat) -> None:
        if self.tile != fmt.tile:
            raise ValueError(f"granularity: {fmt.name} fixes its blocks at {fmt.granularity}, got {self.granularity}")
        if fmt.two_level and self.rule not in TWO_LEVEL_RULES:
            raise ValueError(f"rule: {fmt.name} takes the rules 'amax' and 'rceil', got {self.rule.value!r}")
        if not fmt.two_level and not self.rule.power_of_two:
            raise ValueError(f"rule: {fmt.name} has power-of-two scales, got {self.rule.value!r}")

    @property
    def static(self) -> float | None:
        """The scale of the rule `static`, else None."""
        return self.value if self.rule is ScaleRule.STATIC else None

    @property
    def factor_tile(self) -> Tile:
        """Rows and columns that share one factor: `tile`, or the pairs of a format with micro-exponents."""
        return self.format.factor_tile if isinstance(self.format, BlockFormat) else self.tile

    @property
    def element(self) -> Format:
        """Format of one code."""
        return self.format.element if isinstance(self.format, BlockFormat) else self.format

    @property
    def two_level(self) -> bool:
        """Whether the tensor has a second scale, `outer`."""
        return isinstance(self.format, BlockFormat) and self.format.two_level

    @property
    def granularity(self) -> str:
        """Text of the tile: tensor, row, col or RxC."""
        return tile_text(self.tile)

    @property
    def scale_bits(self) -> int:
        """Width of one stored scale."""
        return self.format.scale_bits if isinstance(self.format, BlockFormat) else 32

    def scale_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the scale of a tensor; leading axes stay where each row has scales of its own."""
        *leading, cols = shape if shape else (1,)
        if self.tile[0] == 1:
            return (*(leading or [1]), tile_count(cols, self.tile[1]))
        return tile_count(prod(leading), self.tile[0]), tile_count(cols, self.tile[1])

    def __str__(self) -> str:
        is_block = isinstance(self.format, BlockFormat)
        text = self.format.name
        if not is_block and self.tile != (None, None):
            text += f"/{self.granularity}"
        if self.rule.takes_value:
            text += f":{self.rule.value}={self.value!r}"
        elif self.rule is not _default_rule(self.format):
            text += f":{self.rule.value}"
        return text + ("+sr" if self.stochastic else "") + ("+ftz" if self.flush else "")


def _default_rule(fmt: Format | BlockFormat) -> ScaleRule:
    return fmt.rule if isinstance(fmt, BlockFormat) else fmt.default_rule


_TEXT = re.compile(r"(?P<format>[^/:+]+)(?:/(?P<tile>[^/:+]+))?(?::(?P<rule>[^/:]+?))?(?P<options>(?:\+[a-z]+\d*)*)")


OPTIONS = ("sr", "ftz")
RULE_ALIASES = {"real": "amax"}
"""Other names of a rule: the survey calls a scale that is not rounded to a power of two `real`."""

_PARSED: dict[str, Scheme] = {}


def _parse(text: str) -> Scheme:
    match = _TEXT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"scheme: {text!r} is not 'format[/granularity][:rule][+option]', for example 'e4m3fn/row+sr'")
    fmt = get(match["format"])
    rule, value = _parse_rule(match["rule"], fmt)
    options = [option for option in match["options"].split("+") if option]
    for option in options:
        if option not in OPTIONS:
            raise ValueError(f"scheme: unknown option {option!r} in {text!r}; accepted: {', '.join(OPTIONS)}")
    tile = _parse_tile(match["tile"], fmt)
    return Scheme(fmt, tile, rule, value, stochastic="sr" in options, flush="ftz" in options)


def _parse_tile(text: str | None, fmt: Format | BlockFormat) -> Tile:
    if text is None:
        return fmt.tile if isinstance(fmt, BlockFormat) else (None, None)
    return tile_from_text(text)


def _parse_rule(text: str | None, fmt: Format | BlockFormat) -> tuple[ScaleRule, float | None]:
    if text is None:
        return _default_rule(fmt), None
    name, _, value = text.partition("=")
    rule = choice(ScaleRule, RULE_ALIASES.get(name, name), "rule")
    if not value:
        return rule, None
    try:
        return rule, float(value)
    except ValueError:
        raise ValueError(f"rule: {value!r} in {text!r} is not a number") from None


def parse(scheme: Any) -> Scheme:
    """The `Scheme` of a text (a Scheme is returned as it is). ValueError says what the text cannot mean."""
    if isinstance(scheme, Scheme):
        return scheme
    if not isinstance(scheme, str):
        raise TypeError(f"scheme: expected a string or a Scheme, got {type(scheme).__name__}")
    # A plain dict: compilers that trace Python see through it, which they do not through lru_cache.
    if scheme not in _PARSED:
        _PARSED[scheme] = _parse(scheme)
    return _PARSED[scheme]
