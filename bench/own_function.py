"""A user's own kernel in a suite: "module:function" or "file.py:function", called and checked like any competitor.

In `bench gemm`, where `narrowgauge bench quantize --help` says it for quantisers:

    --fn        fn(x, w) -> y   x [M, K], w [N, K] bfloat16 (on a CPU float32), contiguous
    --fn-codes  fn(x_codes, x_scale, w_codes, w_scale) -> y
                                codes [M, K] and [N, K] and scales of the schemes that are timed, as
                                `narrowgauge.quantize` gives them (of two-level formats float32 factors)

y is a new tensor [M, N] each time, bfloat16 or float32, on the operands' device; no operand is written. `fn` may
quantise as it likes, and may err by a quarter more than the scheme that is timed errs itself; `fn-codes` by what the
roundings of float32 sums and of y allow. `narrowgauge.numerics.check_gemm` tries the same kernel on ragged, strided
and non-finite operands.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from narrowgauge.bench.gemm_check import Rounding, relative_error
from narrowgauge.bench.gemm_competitor import Competitor, Make, float8_rounding, matrix_unit, moved, out_bytes
from narrowgauge.bench.gemm_inputs import Inputs
from narrowgauge.bench.gemm_own import Pair, pair_name
from narrowgauge.formats import parse

DTYPES = (torch.bfloat16, torch.float32)


@dataclass(frozen=True)
class OwnFunction:
    """text: what the user wrote. takes_codes: called with codes and scales instead of x and w."""

    text: str
    function: Callable[..., Any]
    takes_codes: bool = False


def load_function(text: str, *, takes_codes: bool = False) -> OwnFunction:
    """The function "module:function" or "path/file.py:function"; modules are looked for in the working folder first.

    Importing it runs the module's code. ValueError where there is no such function.
    """
    place, colon, name = text.rpartition(":")
    if not colon or not place or not name:
        raise ValueError(f"fn: got {text!r}, accepted: module:function or file.py:function")
    try:
        module = _from_file(Path(place)) if place.endswith(".py") else _from_module(place)
    except Exception as error:  # anything that a stranger's module may raise
        raise ValueError(f"fn: {place} does not load: {type(error).__name__}: {error}") from error
    function: Any = module
    for part in name.split("."):
        function = getattr(function, part, None)
    if not callable(function):
        raise ValueError(f"fn: {place} has no function {name}")
    return OwnFunction(text, function, takes_codes)


def _from_file(path: Path) -> Any:
    name = f"narrowgauge_own_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError("is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where Triton looks for a kernel's module
    spec.loader.exec_module(module)
    return module


def _from_module(name: str) -> Any:
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(name)


def gemm_makers(functions: list[OwnFunction], pairs: list[Pair], units: tuple[str, ...]) -> dict[str, Make]:
    """Name → what makes the competitor: `fn` once, held to the first pair of schemes, `fn-codes` for each."""
    makers: dict[str, Make] = {}
    for own in functions:
        for pair in pairs if own.takes_codes else pairs[:1]:
            name = f"{own.text} {pair_name(pair)}" if own.takes_codes else own.text
            makers[name] = partial(_of_codes if own.takes_codes else _of_values, own.function, pair, units)
    return makers


def _of_values(function: Callable[..., Any], pair: Pair, units: tuple[str, ...], inputs: Inputs) -> Competitor:
    x, w = inputs.x, inputs.w
    exact = inputs.operands()
    rounding = Rounding(quantization=relative_error(inputs.operands(*pair), exact))
    note = f"fn(x, w); may err by {100 * 1.25 * rounding.quantization:.2g} %, as {pair_name(pair)}"
    traffic = moved(x, w, out=out_bytes(inputs, x.dtype))
    return Competitor(partial(function, x, w), exact, rounding, DTYPES, traffic,
                      matrix_unit(parse(pair[0]), parse(pair[1]), units), note)  # fmt: skip


def _of_codes(function: Callable[..., Any], pair: Pair, units: tuple[str, ...], inputs: Inputs) -> Competitor:
    args = (*inputs.pair("x", pair[0]), *inputs.pair("w", pair[1]))
    unit = matrix_unit(parse(pair[0]), parse(pair[1]), units)
    rounding = float8_rounding(inputs.device, unit, inputs.problem.k, None)
    traffic = moved(*args, out=out_bytes(inputs, inputs.x.dtype))
    return Competitor(partial(function, *args), inputs.operands(*pair), rounding, DTYPES, traffic, unit,
                      "fn(x_codes, x_scale, w_codes, w_scale)", args)  # fmt: skip
