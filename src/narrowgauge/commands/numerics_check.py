"""`narrowgauge numerics check`: holds a function of the user's to the definition."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from narrowgauge.commands.output import print_json, print_text

if TYPE_CHECKING:
    from narrowgauge.numerics import CheckReport

SUMMARY = "hold your own quantizer or matrix product to the definition"
DESCRIPTION = """\
Import FUNCTION from MODULE (the current folder counts) and try it on inputs that such functions get wrong. Exit status
1 where something is wrong, with what, where and, if it is a known fault, its name.

A quantizer takes x (of +sr schemes x and a seed) and returns dequantised values, (codes, scale), (codes, scale, outer)
or an object with .codes and .scale. x is a float32 numpy array, or with --tensor a torch tensor. Contracts: "nearest"
asks for correct rounding at scales that may be computed in another order, "narrowgauge" for the very bits of this
library. A cast without scales has the scheme FORMAT:static=1.

With --gemm the function takes (a_codes, a_scale, b_codes, b_scale) of a [M, K] and b [N, K], with --values the
dequantised (a, b), and returns a·bᵀ [M, N].

examples:
  narrowgauge numerics check my_kernels:quantize --scheme e4m3fn/row
  narrowgauge numerics check my_kernels:quantize --scheme mxfp8 --tensor --contract narrowgauge
  narrowgauge numerics check my_kernels:cast --scheme e5m2:static=1 --overflow nonsaturating --dtype float16
  narrowgauge numerics check my_kernels:matmul --gemm --scheme int8/row --out-dtype bfloat16
  narrowgauge numerics check my_kernels:matmul --gemm --scheme e4m3fn/row --scheme e5m2/row --tensor --device cuda
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `narrowgauge numerics check`."""
    add = parser.add_argument
    add("target", metavar="MODULE:FUNCTION", help="what to check; dots after the colon reach into classes")
    add("--scheme", action="append", required=True, metavar="S", dest="schemes",
        help="what it should do, such as e4m3fn/row; with --gemm twice where a and b differ")  # fmt: skip
    add("--contract", metavar="C", help="nearest or narrowgauge (default: nearest)")
    add("--overflow", metavar="O", help="of a cast: saturate, propagate or nonsaturating (default: saturate)")
    add("--nan", metavar="N", help="what becomes of NaN: keep, zero, max or any (default: keep)")
    add("--dtype", action="append", metavar="T", dest="dtypes",
        help="input type to try; may be repeated (default: float32)")  # fmt: skip
    add("--skip", action="append", metavar="NAME", help="leave out this check; may be repeated")
    add("--gemm", action="store_true", help="the function is a matrix product")
    add("--values", action="store_true", help="with --gemm: it takes dequantised values instead of codes and scales")
    add("--out-dtype", metavar="T", help="with --gemm: float32, bfloat16, float16 or float64 (default: float32)")
    add("--accumulate", metavar="T", help="with --gemm: float32, float16, int32 … (default: float32)")
    add("--tensor", action="store_true", help="give it torch tensors instead of numpy arrays")
    add("--device", metavar="D", help="with --tensor: cpu, cuda, cuda:1 … (default: cpu)")
    add("--seed", type=int, default=0, help="of the random inputs (default: %(default)s)")
    add("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Runs the checks; 1 if one of them failed."""
    _refuse(args)
    function = load(args.target)
    report = _check_gemm(function, args) if args.gemm else _check_quantizer(function, args)
    if args.json:
        print_json(report.to_dict())
    else:
        print_text(report.table())
    return 0 if report.ok else 1


def _refuse(args: argparse.Namespace) -> None:
    """ValueError for flags that do not go together."""
    for flag in ("values", "out_dtype", "accumulate"):
        if getattr(args, flag) and not args.gemm:
            raise ValueError(f"--{flag.replace('_', '-')}: goes with --gemm")
    for flag in ("contract", "overflow", "nan", "dtypes"):
        if getattr(args, flag) and args.gemm:
            raise ValueError(f"--{flag.removesuffix('s')}: goes with quantizers, not with --gemm")
    if args.device and not args.tensor:
        raise ValueError("--device: goes with --tensor; numpy arrays are on the CPU")
    if len(args.schemes) > (2 if args.gemm else 1):
        raise ValueError(f"--scheme: got {len(args.schemes)}, accepted: one, or with --gemm one for a and one for b")


def load(target: str) -> Callable[..., Any]:
    """The function called MODULE:FUNCTION. ValueError where it is not there or not callable; what the module itself
    raises while it is imported comes through as ValueError too, with its type."""
    module_name, colon, path = target.partition(":")
    if not colon or not module_name or not path:
        raise ValueError(f"target: got {target!r}, accepted: MODULE:FUNCTION, as my_kernels:quantize")
    here = os.getcwd()  # noqa: PTH109 - sys.path holds text
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # whatever a stranger's module raises
        raise ValueError(f"target: importing {module_name!r} failed with {type(error).__name__}: {error}") from error
    for name in path.split("."):
        if not hasattr(found, name):
            near = get_close_matches(name, dir(found), n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"target: {module_name!r} has no {name!r}{hint}")
        found = getattr(found, name)
    if not callable(found):
        raise ValueError(f"target: {target!r} is a {type(found).__name__}, accepted: a function")
    result: Callable[..., Any] = found
    return result


def _check_quantizer(function: Callable[..., Any], args: argparse.Namespace) -> CheckReport:
    from narrowgauge.numerics import check_quantizer

    return check_quantizer(
        function,
        args.schemes[0],
        contract=args.contract or "nearest",
        overflow=args.overflow or "saturate",
        nan=args.nan or "keep",
        dtypes=args.dtypes or ("float32",),
        as_tensor=args.tensor,
        device=args.device,
        seed=args.seed,
        skip=args.skip or (),
    )


def _check_gemm(function: Callable[..., Any], args: argparse.Namespace) -> CheckReport:
    from narrowgauge.numerics import check_gemm

    return check_gemm(
        function,
        *args.schemes,
        out_dtype=args.out_dtype or "float32",
        accumulate=args.accumulate or "float32",
        operands="values" if args.values else "codes",
        as_tensor=args.tensor,
        device=args.device,
        seed=args.seed,
        skip=args.skip or (),
        subject=args.target,
    )
