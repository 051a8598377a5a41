"""`narrowgauge bench gemm`: flags and tables of the suite that times products of quantised matrices."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from narrowgauge.commands.bench_flags import add_common, add_plot
from narrowgauge.commands.bench_output import deliver, refuse
from narrowgauge.commands.numerics_progress import progress
from narrowgauge.commands.output import note, number, print_table, print_text

if TYPE_CHECKING:
    from narrowgauge.bench.gemm import GemmResult
    from narrowgauge.bench.own_function import OwnFunction

SUMMARY = "products of quantised matrices on shapes of real models, against torch.mm"
DESCRIPTION = """\
Time y = x · wT of quantised matrices on the shapes of real models, ours, other people's and your own, in turn with
torch.mm in bfloat16 (on a CPU float32), and with what the machine can do at most: copies and large products.
Every result is checked on the shape that is timed, before (in memory filled with NaN) and after (on new numbers);
what is wrong has no time.

examples:
  narrowgauge bench gemm
  narrowgauge bench gemm --model llama3-70b --model deepseek-v3 --tokens 4096 --device cuda
  narrowgauge bench gemm --model qwen3-8b --layer down --pass dgrad --pass wgrad --device cuda
  narrowgauge bench gemm --shape 2048x6144x4096 --scheme e4m3fn/row --scheme e4m3fn/1x128,e4m3fn/128x128
  narrowgauge bench gemm --shape 1x28672x4096 --weight-scheme int4/1x128 --weight-scheme nf4/1x64
  narrowgauge bench gemm --shape 64x512x512 --scheme e4m3fn/row --fn my_kernels.py:matmul
  narrowgauge bench gemm --scheme int8/row --fn-codes my_kernels:int8_matmul

your own kernel:
  --fn        fn(x, w) -> y: x [M, K] and w [N, K] in bfloat16 (on a CPU float32); may err by a quarter more than the
              first --scheme does
  --fn-codes  fn(x_codes, x_scale, w_codes, w_scale) -> y: what narrowgauge.quantize gives under each --scheme; may
              err by the roundings of float32 sums and of y
  y is a new tensor [M, N] in bfloat16 or float32.
"""
_HEADS = ("<", "ms", "{rate}", "% of peak", "GB/s", "% of copy", "FLOP/byte", "error %", "spread %", "× torch.mm", "<")


def add_parser(suites: Any) -> None:
    """Adds the suite to the suites of `narrowgauge bench`."""
    parser = suites.add_parser("gemm", help=SUMMARY, description=DESCRIPTION)
    add_arguments(parser)
    parser.set_defaults(run=run, parser=parser)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    add = parser.add_argument
    add("--model", action="append", metavar="NAME", help="its linear layers: llama3-8b, llama3-70b, qwen2.5-7b, "
        "qwen3-8b, qwen3-30b-a3b or deepseek-v3; may be repeated (default: llama3-8b, on a CPU with N and K a quarter "
        "of the model's)")  # fmt: skip
    add("--layer", action="append", metavar="NAME", help="only this layer, such as down or lm_head (may be repeated)")
    add("--tokens", action="append", type=int, metavar="N", help="rows of x; may be repeated (default: 1 and 64 on "
        "a CPU; 1, 16, 128, 2048 and 8192 on a GPU)")  # fmt: skip
    add("--pass", action="append", dest="passes", choices=("fprop", "dgrad", "wgrad"), help="which product of the "
        "layers; may be repeated (default: fprop)")  # fmt: skip
    add("--divide", type=int, metavar="N", help="take N and K of the layers smaller by this factor (default: 1; "
        "4 on a CPU without --model)")  # fmt: skip
    add("--shape", action="append", metavar="MxNxK", help="this product (may be repeated)")
    add("--scheme", action="append", metavar="SCHEME", help="of both sides, or X,W; may be repeated (default: e4m3fn, "
        "e4m3fn/row, e4m3fn/1x128 with e4m3fn/128x128, int8/row, mxfp8 and nvfp4)")  # fmt: skip
    add("--weight-scheme", action="append", metavar="SCHEME", help="of w, x not being quantised; may be repeated "
        "(default: int8/row, int4/1x128 and nf4/1x64)")  # fmt: skip
    add("--quantize", action="store_true", help="also time the quantisation of x followed by the product")
    add("--fn", action="append", metavar="MODULE:FUNCTION", help="time your kernel fn(x, w) (may be repeated)")
    add("--fn-codes", action="append", metavar="MODULE:FUNCTION", help="time your kernel fn(x_codes, x_scale, w_codes, "
        "w_scale) (may be repeated)")  # fmt: skip
    add("--peers", action=argparse.BooleanOptionalAction, default=True, help="also torch's own products, torchao, "
        "bitsandbytes, DeepGEMM and TransformerEngine, where installed (default: yes)")  # fmt: skip
    add_common(parser, repetitions=9)
    add_plot(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the suite and prints its tables; 1 where one of our results or of the user's is wrong."""
    from narrowgauge.bench.gemm import run_suite

    functions = _functions(args)
    try:
        with progress("products") as show:
            result = run_suite(args.model, args.shape, layers=args.layer, tokens=args.tokens, passes=args.passes,
                               divide=args.divide, schemes=args.scheme, weight_schemes=args.weight_scheme,
                               functions=functions, quantize=args.quantize, device=args.device,
                               repetitions=args.repetitions, peers=args.peers, show=show)  # fmt: skip
    except AssertionError as difference:
        return refuse("gemm", difference)
    if args.plot:
        from narrowgauge.bench.roofline import plot

        note(f"written: {plot(result, args.plot)}")
    deliver(result, args, print_gemm)
    return 1 if result.own_wrong() else 0


def _functions(args: argparse.Namespace) -> list[OwnFunction]:
    from narrowgauge.bench.own_function import load_function

    plain = [load_function(text) for text in args.fn or ()]
    return plain + [load_function(text, takes_codes=True) for text in args.fn_codes or ()]


def print_gemm(result: GemmResult) -> None:
    """A table for each problem, what is wrong, what was not timed, the ceilings and the machine."""
    from narrowgauge.bench.gemm import SEPARATOR

    on_cpu = result.settings["dtype"] == "float32"
    unit, factor = ("GFLOP/s", 1e3) if on_cpu else ("TFLOP/s", 1.0)
    heads = [head.format(rate=unit) for head in _HEADS]
    for problem in result.settings["problems"]:
        start = f"{problem['name']}{SEPARATOR}"
        table = [
            (
                row.name.removeprefix(start),
                *_figures(row.figures, factor),
                f"{100 * row.timing.spread:.0f}",
                f"{row.ratio:.2f}",
                row.note,
            )
            for row in result.rows
            if row.name.startswith(start)
        ]
        print_table(heads, table, title=problem["name"])
        print_text()
    for name, reason in result.wrong.items():
        print_text(f"wrong, so not timed: {name} ({reason})")
    for text in _merged(result.skipped.items(), SEPARATOR):
        print_text(f"not timed: {text}")
    ceilings = ", ".join(f"{name} {number(value)}" for name, value in result.ceilings.items())
    print_text(f"ceilings, measured in the same run: {ceilings}")
    print_text(f"on {result.machine}")


def _figures(figures: Any, factor: float) -> list[str]:
    shown = ("milliseconds", "tflop_per_s", "peak_percent", "gb_per_s", "copy_percent", "intensity_flop_per_byte",
             "error_percent")  # fmt: skip
    return [number(figures[name] * (factor if name == "tflop_per_s" else 1.0), 3) for name in shown]


def _merged(skipped: Iterable[tuple[str, str]], separator: str) -> list[str]:
    """One line for each competitor and reason, however many problems it holds for."""
    count: dict[tuple[str, str], list[str]] = {}
    for name, reason in skipped:
        problem, competitor = name.split(separator, 1)
        count.setdefault((competitor, reason), []).append(problem)
    return [
        f"{competitor} ({reason})" if len(problems) > 1 else f"{problems[0]}{separator}{competitor} ({reason})"
        for (competitor, reason), problems in count.items()
    ]
