"""Products of quantised matrices on the shapes of real models, against torch.mm of values that are not quantised.

Every competitor, ours, other people's and the user's own, is checked on the shape that is timed: in poisoned memory
before it is timed, and on new numbers in the same memory afterwards. What fails has no time; it is listed as wrong.
Copy bandwidth and the rate of large products are timed in turn with the competitors of each shape.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from narrowgauge.bench.ceilings import Ceilings, Probes, middle
from narrowgauge.bench.conformance import check_samples
from narrowgauge.bench.gemm_check import check_product
from narrowgauge.bench.gemm_competitor import Competitor, Make, out_dtype
from narrowgauge.bench.gemm_inputs import Inputs
from narrowgauge.bench.gemm_own import BASELINE, ops_of, own_makers, scheme_pair
from narrowgauge.bench.gemm_peers import PEERS, peer_makers
from narrowgauge.bench.machine import check_device
from narrowgauge.bench.model_shapes import TOKENS_CPU, TOKENS_GPU, Problem, model_problems, parse_shape
from narrowgauge.bench.own_function import OwnFunction, gemm_makers
from narrowgauge.bench.poison import WrongResult, checked_call, poison_freed, poisoned_memory
from narrowgauge.bench.report import Row, SuiteResult
from narrowgauge.bench.timer import MIN_REPETITIONS, Timing, time_interleaved
from narrowgauge.formats import parse
from narrowgauge.kernels.op import Sample

DEFAULT_MODEL = "llama3-8b"
DEFAULT_SCHEMES = ("e4m3fn", "e4m3fn/row", "e4m3fn/1x128,e4m3fn/128x128", "int8/row", "mxfp8", "nvfp4")
DEFAULT_WEIGHTS = ("int8/row", "int4/1x128", "nf4/1x64")
COMMON_SCHEMES = ("e4m3fn/row", "int8/row", "mxfp8_e4m3")
"""Those whose samples are always run, besides those of the schemes that are timed."""
CPU_DIVISOR = 4
"""By which factor N and K of the default shapes are smaller on a CPU."""
SEED = 20260101
SEPARATOR = ": "
"""Between the problem and the competitor in the name of a row."""
LONGEST_CALL, LONGEST_TIMES = 0.5, 10.0
"""A peer whose calls take more seconds than this, and more than so many of the baseline's, is not timed."""

Show = Callable[[int, int, str], None]


@dataclass(frozen=True)
class GemmResult(SuiteResult):
    """wrong: "problem: competitor" → what its result had that it should not have; those have no rows."""

    wrong: Mapping[str, str] = field(default_factory=dict)

    def own_wrong(self) -> list[str]:
        """Those of them that are not other people's."""
        return [name for name in self.wrong if name.split(SEPARATOR, 1)[1] not in PEERS]


def default_tokens(device: torch.device | str) -> tuple[int, ...]:
    """Rows of x where nothing else is asked for."""
    return TOKENS_CPU if torch.device(device).type == "cpu" else TOKENS_GPU


def choose_problems(
    models: Sequence[str] | None = None,
    shapes: Sequence[str] | None = None,
    *,
    layers: Sequence[str] | None = None,
    tokens: Sequence[int] | None = None,
    passes: Sequence[str] | None = None,
    divide: int | None = None,
    device: torch.device | str = "cpu",
) -> list[Problem]:
    """`shapes` as "MxNxK", then the layers of `models`, as `model_problems` has them; without either, of Llama-3 8B,
    whose N and K are a quarter on a CPU unless `divide` is given. ValueError for what means nothing."""
    found = [parse_shape(text) for text in shapes or ()]
    of_layers = {"layers": layers, "tokens": tokens, "passes": passes, "divide": divide}
    given = [name for name, value in of_layers.items() if value is not None]
    if found and not models:
        if given:
            raise ValueError(f"{given[0]}: is of the layers of a model; with shapes alone it means nothing")
        return found
    if divide is None:
        divide = CPU_DIVISOR if not models and torch.device(device).type == "cpu" else 1
    count = default_tokens(device) if tokens is None else tokens
    return found + model_problems(models or [DEFAULT_MODEL], count, passes or ("fprop",), layers=layers, divide=divide)


def run_suite(
    models: Sequence[str] | None = None,
    shapes: Sequence[str] | None = None,
    *,
    layers: Sequence[str] | None = None,
    tokens: Sequence[int] | None = None,
    passes: Sequence[str] | None = None,
    divide: int | None = None,
    schemes: Sequence[str] | None = None,
    weight_schemes: Sequence[str] | None = None,
    functions: Sequence[OwnFunction] = (),
    quantize: bool = False,
    device: torch.device | str = "cpu",
    repetitions: int = MIN_REPETITIONS,
    peers: bool = True,
    probes: Probes | None = None,
    show: Show = lambda *_: None,
    save: Callable[[SuiteResult], None] = lambda _: None,
) -> GemmResult:
    """Times the products that `choose_problems` gives, under `schemes` (one for both sides, or "x's,w's") and, x being
    left as it is, under `weight_schemes`. None: the suite's own choice.

    functions: the user's own. quantize: also the quantisation of x followed by the product. probes: what measures the
    ceilings. show(done, total, what is next) is called before each problem; save is given what there is after each.

    Rows are named "problem: competitor"; their ratio is to torch.mm of the same problem. Figures: milliseconds;
    tflop_per_s and peak_percent, its share of the measured rate of such products; gb_per_s and copy_percent, of the
    bytes that have to be moved and of the copy bandwidth; intensity_flop_per_byte; error_percent, the root mean square
    error against the float64 product of the row's own operands, relative to it.

    AssertionError when an operator or the baseline is outside of its bound. ValueError for names, schemes and sizes
    that mean nothing.
    """
    check_device(device)
    chosen = choose_problems(models, shapes, layers=layers, tokens=tokens, passes=passes, divide=divide, device=device)
    pairs = [scheme_pair(text) for text in (DEFAULT_SCHEMES if schemes is None else schemes)]
    weights = [str(parse(text)) for text in (DEFAULT_WEIGHTS if weight_schemes is None else weight_schemes)]
    timed = {*COMMON_SCHEMES, *weights, *(scheme for pair in pairs for scheme in pair)}
    for op in ops_of(pairs, weights):
        check_samples(op, device, partial(_is_of, timed))
    probes = Probes(device) if probes is None else probes
    makers = own_makers(pairs, weights, probes.units, with_quantize=quantize)
    makers |= gemm_makers(list(functions), pairs, probes.units)
    strangers = peer_makers(probes.units) if peers else {}
    rows: list[Row] = []
    skipped: dict[str, str] = {}
    wrong: dict[str, str] = {}
    ceilings = []
    settings = {
        "problems": [{"name": p.name, "m": p.m, "n": p.n, "k": p.k} for p in chosen],
        "schemes": [",".join(dict.fromkeys(pair)) for pair in pairs],
        "weight_schemes": weights,
        "dtype": str(out_dtype(torch.device(device))).removeprefix("torch."),
        "device": str(device), "repetitions": repetitions, "seed": SEED,
    }  # fmt: skip
    for number, problem in enumerate(chosen):
        show(number, len(chosen), problem.name)
        race = _Race(problem, {**makers, **strangers}, frozenset(strangers), probes, repetitions)
        race.run()
        rows += race.rows
        ceilings.append(race.ceilings)
        for found, target in ((race.skipped, skipped), (race.wrong, wrong)):
            target.update({f"{problem.name}{SEPARATOR}{name}": text for name, text in found.items()})
        roofs = middle(ceilings).figures()
        result = GemmResult("gemm", settings, BASELINE, rows, skipped, ceilings=roofs, wrong=wrong)
        save(result)
    return result


def _is_of(schemes: set[str], sample: Sample) -> bool:
    """Whether a sample's schemes are all among these."""
    return all(str(parse(arg)) in schemes for arg in sample.args if isinstance(arg, str))


class _Race:
    """The competitors of one problem: checked, timed in turn, and checked again."""

    def __init__(
        self, problem: Problem, makers: Mapping[str, Make], strangers: frozenset[str], probes: Probes, repetitions: int
    ) -> None:
        self.problem, self.makers, self.strangers = problem, makers, strangers
        self.probes, self.repetitions = probes, repetitions
        self.inputs = Inputs(problem, probes.device, out_dtype(probes.device), SEED)
        self.rows: list[Row] = []
        self.skipped: dict[str, str] = {}
        self.wrong: dict[str, str] = {}
        self.ceilings: Ceilings
        self.base_seconds = 0.0

    def run(self) -> None:
        """AssertionError where the baseline is wrong."""
        with poisoned_memory():
            standing = [name for name in self.makers if self._judge(name) is not None]
        self.inputs.refill(SEED + 1)
        racers = {name: self.makers[name](self.inputs) for name in standing}
        calls = {name: racer.call for name, racer in racers.items()}
        timings = time_interleaved(
            {**calls, **self.probes.calls()}, device=self.probes.device, repetitions=self.repetitions, warmup=1
        )
        self.ceilings = self.probes.read(timings)
        self.inputs.refill(SEED + 2)
        for name in racers:
            verdict = self._judge(name, "; on new numbers, after it was timed")
            if verdict is not None:
                self.rows.append(self._row(name, timings, *verdict))

    def _judge(self, name: str, when: str = "") -> tuple[Competitor, float] | None:
        """The competitor and its error, if it can serve and is right; else the reason is kept."""
        try:
            racer = self.makers[name](self.inputs)
            return racer, self._checked(name, racer)
        except WrongResult as difference:
            if name == BASELINE:
                raise
            self.wrong[name] = f"{difference}{when}"
        except ValueError as reason:
            self.skipped[name] = str(reason)
        except Exception as error:  # anything that a stranger's kernel may raise
            text = f"raised {type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
            (self.skipped if name in self.strangers else self.wrong)[name] = text
        return None

    def _checked(self, name: str, racer: Competitor) -> float:
        """The error of its result; ValueError where it takes so long that it is not worth the time of a run."""
        shape, seconds = (self.problem.m, self.problem.n), []

        def timed() -> Tensor:
            start = time.perf_counter()
            y = racer.call()
            if self.inputs.device.type != "cpu":
                torch.cuda.synchronize(self.inputs.device)
            seconds.append(time.perf_counter() - start)
            return y

        poison_freed(shape[0] * shape[1] * racer.dtypes[0].itemsize, self.inputs.device)
        held = [self.inputs.x, self.inputs.w, *racer.held]
        error = check_product(
            checked_call(timed, held, shape, racer.dtypes, self.inputs.guard),
            racer.operands, self.problem.k, racer.rounding,
        )  # fmt: skip
        self.base_seconds = min(seconds) if name == BASELINE else self.base_seconds
        times = min(seconds) / self.base_seconds
        if name in self.strangers and min(seconds) > LONGEST_CALL and times > LONGEST_TIMES:
            raise ValueError(f"right, but a call takes {min(seconds):.2g} s, {times:.0f} times {BASELINE}")
        return error

    def _row(self, name: str, timings: Mapping[str, Timing], racer: Competitor, error: float) -> Row:
        seconds = timings[name].median
        rate, traffic = self.problem.flops / seconds, racer.bytes / seconds
        figures = {
            "milliseconds": seconds * 1e3,
            "tflop_per_s": rate / 1e12,
            "peak_percent": self.ceilings.share_of_peak(rate, racer.unit),
            "gb_per_s": traffic / 1e9,
            "copy_percent": self.ceilings.share_of_copy(traffic),
            "intensity_flop_per_byte": self.problem.flops / racer.bytes,
            "error_percent": 100 * error,
        }
        ratio = seconds / timings[BASELINE].median
        return Row(f"{self.problem.name}{SEPARATOR}{name}", timings[name], ratio, figures, racer.note)
