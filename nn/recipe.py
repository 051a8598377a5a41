"""Recipes: how the three GEMMs of a linear layer are quantised, as data.

A linear layer Y = X·Wᵀ (X [T, K], W [N, K]) has three GEMMs and six operand slots; every operand is written with the
reduction axis last, so "row" and "1xG" mean along the reduction:

| GEMM  | product     | reduced | slots                          |
|-------|-------------|---------|--------------------------------|
| fprop | Y = X·Wᵀ    | K       | x_fprop [T, K], w_fprop [N, K] |
| dgrad | dX = dY·W   | N       | g_dgrad [T, N], w_dgrad [K, N] |
| wgrad | dW = dYᵀ·X  | T       | g_wgrad [N, T], x_wgrad [K, T] |

A slot is None for high precision, a `Scheme` of any format of at most 16 bits, or an `OperandScheme`, which does more
around the quantisation (rotations, clamped outliers, stateful scales: `narrowgauge.formats.operand`). Products of two
operands of at most 8 bits run in the scaled GEMM, others in high precision on the dequantised values.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from narrowgauge.formats import Scheme, parse
from narrowgauge.formats.operand import AnyScheme, OperandScheme, base_scheme, draws_anew, parse_operand
from narrowgauge.formats.slots import GEMMS, OUTPUTS, SLOTS
from narrowgauge.nn.accumulate import parse_accumulator
from narrowgauge.nn.maps import parse_map
from narrowgauge.nn.matmul import Plan
from narrowgauge.nn.operand import are_integers, code_text


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a linear layer is quantised, under a name.

    Beside the six slots:
    out_fprop, out_dgrad, out_wgrad: schemes of Y, dX and dW, None for high precision.
    accumulate: an emulated accumulator of the three products (`nn.accumulate`), such as "dlfloat16/64".
    sample: the share of the rows of dY that the backward products keep, drawn by leverage score (`nn.sampling`).
    requantize: backward operands are made from the quantised forward ones, not from X and W ("double quantisation").
    weight_map, input_map: what is done to W and X before, with a gradient of its own (`nn.maps`).
    update: scheme of the grid that the weights themselves live on (`nn.GridWeights` keeps them there).
    keep: how many blocks at the model's begin and end stay in high precision.
    source: where the recipe was published and what was chosen here. advice: what else belongs to the method, in words.
    caveat: why training with it is known to end behind high precision.
    """

    name: str
    x_fprop: AnyScheme | None = None
    w_fprop: AnyScheme | None = None
    g_dgrad: AnyScheme | None = None
    w_dgrad: AnyScheme | None = None
    g_wgrad: AnyScheme | None = None
    x_wgrad: AnyScheme | None = None
    out_fprop: Scheme | None = None
    out_dgrad: Scheme | None = None
    out_wgrad: Scheme | None = None
    accumulate: str | None = None
    sample: float | None = None
    requantize: bool = False
    weight_map: str | None = None
    input_map: str | None = None
    update: Scheme | None = None
    keep: tuple[int, int] = (0, 0)
    source: str = ""
    advice: str = ""
    caveat: str = ""

    def __post_init__(self) -> None:
        for gemm, pair in GEMMS.items():
            turns = [_rotation(self.slots[slot]) for slot in pair]
            if turns[0] != turns[1]:
                shown = " and ".join(f"{slot}={self.slots[slot]}" for slot in pair)
                raise ValueError(f"{gemm}: both operands are rotated alike or neither is, got {shown}")
        if self.accumulate is not None:
            parse_accumulator(self.accumulate)
        if self.sample is not None and not (_is_number(self.sample) and 0.0 < self.sample <= 1.0):
            raise ValueError(f"sample: expected a share of the rows, above 0 and at most 1, got {self.sample!r}")
        if not isinstance(self.requantize, bool):
            raise ValueError(f"requantize: expected true or false, got {self.requantize!r}")
        for field in ("name", "source", "advice", "caveat"):
            if not isinstance(getattr(self, field), str):
                raise TypeError(f"{field}: expected text, got {type(getattr(self, field)).__name__}")
        for text in (self.weight_map, self.input_map):
            if text is not None:
                parse_map(text)
        counts = self.keep if isinstance(self.keep, tuple) else ()
        if len(counts) != 2 or any(type(count) is not int or count < 0 for count in counts):
            raise ValueError(f"keep: expected two counts of blocks (first, last), got {self.keep}")

    @property
    def slots(self) -> dict[str, AnyScheme | None]:
        """The six schemes by slot name."""
        return {slot: getattr(self, slot) for slot in SLOTS}

    @property
    def outputs(self) -> dict[str, Scheme | None]:
        """The schemes of Y, dX and dW by name."""
        return {name: getattr(self, name) for name in OUTPUTS}

    @property
    def texts(self) -> tuple[str | None, ...]:
        """The six schemes as text, in the order of `SLOTS`."""
        return tuple(None if scheme is None else str(scheme) for scheme in self.slots.values())

    @property
    def plan(self) -> Plan:
        """What the autograd function takes."""
        outputs = tuple(None if scheme is None else str(scheme) for scheme in self.outputs.values())
        for spec in (*self.slots.values(), *self.outputs.values()):
            if spec is not None:
                are_integers(code_text(spec, isinstance(spec, OperandScheme) and spec.scaling is not None))
        return Plan(self.texts, outputs, self.accumulate, self.requantize, self.sample)

    @property
    def quantized(self) -> bool:
        """Whether any slot, output, map or accumulator is not that of `nn.Linear`."""
        told = (*self.slots.values(), *self.outputs.values(), self.accumulate, self.weight_map, self.input_map)
        return self.sample is not None or any(part is not None for part in told)

    @property
    def stochastic(self) -> bool:
        """Whether anything is drawn anew in every call."""
        schemes = [scheme for scheme in (*self.slots.values(), *self.outputs.values()) if scheme is not None]
        drawn = any(draws_anew(scheme) for scheme in schemes)
        return drawn or self.sample is not None or (self.accumulate is not None and "+sr" in self.accumulate)

    @property
    def stateful(self) -> dict[str, str]:
        """The slots whose scale comes from earlier steps, and the rule of each."""
        return {
            slot: scheme.scaling
            for slot, scheme in self.slots.items()
            if isinstance(scheme, OperandScheme) and scheme.scaling is not None
        }

    @property
    def bits(self) -> int:
        """Bits of the widest quantised operand; 32 where no slot is quantised."""
        schemes = [scheme for scheme in self.slots.values() if scheme is not None]
        return max((base_scheme(scheme).element.bits for scheme in schemes), default=32)

    @property
    def accumulate_roundoff(self) -> float | None:
        """Unit roundoff of the emulated accumulator, None without one."""
        return None if self.accumulate is None else parse_accumulator(self.accumulate).unit_roundoff

    def to_dict(self) -> dict[str, Any]:
        """Plain data: what is not at its default, schemes as text; `recipe(**data)` reads it back."""
        data: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if value == field.default:
                continue
            is_scheme = isinstance(value, Scheme | OperandScheme)
            data[field.name] = str(value) if is_scheme else list(value) if isinstance(value, tuple) else value
        return data


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _rotation(scheme: AnyScheme | None) -> object:
    return scheme.rotation if isinstance(scheme, OperandScheme) else None


FIELDS = tuple(field.name for field in fields(Recipe))


def recipe(name: str, source: str = "", **settings: Any) -> Recipe:
    """A `Recipe` from texts: `recipe("mine", x_fprop="e4m3fn/row", w_fprop=Scheme(fmt, (1, None)))`.

    `every="int8/row"` fills all six slots, `x=`, `w=` and `g=` those of one tensor; a slot that is named as well wins.
    ValueError for unknown settings and for texts that do not parse.
    """
    wide = {"every": SLOTS, **{letter: tuple(s for s in SLOTS if s[0] == letter) for letter in "xwg"}}
    for setting in settings:
        if setting not in FIELDS and setting not in wide:
            known = (*FIELDS, *wide)
            near = get_close_matches(setting, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"recipe: unknown {setting!r}{hint}; accepted: {', '.join(known)}")
    chosen: dict[str, Any] = {}
    for group, slots in wide.items():
        if group in settings:
            chosen |= dict.fromkeys(slots, settings[group])
    chosen |= {key: value for key, value in settings.items() if key in FIELDS}
    for key, value in chosen.items():
        if value is not None and key in SLOTS:
            chosen[key] = _parsed(key, value, parse_operand)
        elif value is not None and key in (*OUTPUTS, "update"):
            chosen[key] = _parsed(key, value, parse)
    if isinstance(chosen.get("keep"), list):
        chosen["keep"] = tuple(chosen["keep"])
    return Recipe(name=name, source=source, **chosen)


def _parsed(key: str, value: Any, parser: Callable[[Any], Any]) -> Any:
    """The scheme of a setting; errors name the setting."""
    try:
        return parser(value)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{key}: {error}") from error


def get_recipe(name: str | Recipe | Mapping[str, Any]) -> Recipe:
    """The recipe called `name`; of a path that ends in .toml the recipe in that file; of the text of a scheme all six
    slots under it; a Recipe is returned as it is, a mapping of settings becomes one. ValueError names the nearest."""
    from narrowgauge.nn.recipes import RECIPES

    if isinstance(name, Recipe):
        return name
    if isinstance(name, Mapping):
        return recipe(**{"name": "unnamed", **name})
    if not isinstance(name, str):
        raise TypeError(f"recipe: expected a name, a Recipe, a mapping or a .toml file, got {type(name).__name__}")
    if name.endswith(".toml"):
        return load_recipe(name)
    if name in RECIPES:
        return RECIPES[name]
    try:
        scheme = parse_operand(name)
    except ValueError as error:
        near = get_close_matches(name, RECIPES, n=2, cutoff=0.3)
        hint = f"nearest: {', '.join(near)}; " if near else ""
        raise ValueError(
            f"recipe: unknown name {name!r}; {hint}`narrowgauge recipes` lists all {len(RECIPES)}; nor a scheme for "
            f"all six operands ({error}), nor a .toml file"
        ) from error
    return recipe(str(scheme), "one scheme in all six slots", every=scheme)


def load_recipe(path: str | Path) -> Recipe:
    """The recipe of a TOML file: the settings of `recipe` as top-level keys, the file's name where `name` is missing.

    ValueError, naming the file, for what is no TOML and for settings that do not parse; FileNotFoundError.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"recipe: {file} is no file")
    try:
        settings = tomllib.loads(file.read_text(encoding="utf-8"))
        if not settings:
            raise ValueError("it sets nothing; accepted settings: every, x, w, g, a slot such as x_fprop, …")
        return recipe(**{"name": file.stem, **settings})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValueError, TypeError) as error:
        raise ValueError(f"{file}: {error}") from error
