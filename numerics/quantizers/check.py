"""`check_quantizer`: holds any quantizer or cast to the definition of a scheme and says what a fault looks like.

Failing inputs are made small by a deterministic search (`quantizers.shrink`), so that hypothesis need not be installed
and equal calls give equal reports. `property_names` lists what is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np

from narrowgauge.formats import Overflow, Scheme, parse
from narrowgauge.formats.rounding import choice
from narrowgauge.numerics.check_report import CheckReport
from narrowgauge.numerics.quantizers.battery import battery
from narrowgauge.numerics.quantizers.call import DTYPES, Subject
from narrowgauge.numerics.quantizers.faults import diagnose
from narrowgauge.numerics.quantizers.findings import Finding, describe, run_relation, run_values, stochastic_findings
from narrowgauge.numerics.quantizers.properties import RELATIONS
from narrowgauge.numerics.quantizers.terms import Contract, NanRule, Terms

BUDGET = 1 << 17
MODES = ("auto", "values", "codes")


def check_quantizer(
    fn: Callable[..., Any],
    scheme: Scheme | str,
    *,
    mode: str = "auto",
    contract: Contract | str = Contract.NEAREST,
    overflow: Overflow | str = Overflow.SATURATE,
    nan: NanRule | str = NanRule.KEEP,
    dtypes: Sequence[str] = ("float32",),
    as_tensor: bool = False,
    device: Any = None,
    budget: int = BUDGET,
    seed: int = 0,
    random_bits: int = 16,
    smallest_amax: float = 2.0**-100,
    skip: Collection[str] = (),
) -> CheckReport:
    """Every property of `scheme` that can be seen from outside, on every value, every midpoint with its float32
    neighbours, all 16-bit floats, named hard cases, scale borders, ragged, empty and strided inputs.

    fn: x [rows, cols] → the dequantised values, a narrow float array, (codes, scale[, outer]), or an object with codes
    and scale. x is float32: a numpy array, or with `as_tensor` a tensor (on `device`). Of a stochastic scheme it is
    fn(x, seed). A cast that does not scale has the scheme `"e4m3fn:static=1.0"`, and may return bare integer codes.

    contract: `nearest` (the default) accepts every quantizer that rounds correctly given the scale which it returns
    (the scheme's, if it returns none): to the nearest value, ties by the scheme's rule; where x / scale is not exact
    in float32, the other neighbour too if it lies within a few float32 roundings of the midpoint. So dividing by the
    scale and multiplying with its reciprocal are both right. `narrowgauge` asks for the bits of
    `formats.quantize_reference`, codes and scales (contract page: y = fl(x · fl(1 / scale))).

    overflow: what a cast makes of values beyond the range: `saturate`, `propagate` or `nonsaturating` (the casts of
    ml_dtypes, and torch's to e5m2). nan: what becomes of NaN: `keep`, `zero`, `max` or `any`. In a group that holds a
    NaN or an infinity everything may be NaN; these two themselves must not come back as numbers, other groups must not
    notice them. smallest_amax: below it a group's scale may be anything (guards such as max(amax, 1e-12)).

    mode: `values` reads a bare integer array as values, `codes` a bare float array as codes; `auto` goes by its dtype.
    dtypes: input types to try, of float32, float64, float16, bfloat16 (the last with `as_tensor`). budget: elements per
    property at most. random_bits: how fine probabilities have to be (2^-random_bits). skip: properties left out.

    Returns a report: `ok`, `failures` (each with the smallest input found, expected and actual code, and in `kind` the
    known fault that reproduces the wrong outputs). ValueError and TypeError for arguments that cannot be meant.
    """
    spec = parse(scheme)
    terms = Terms(
        spec,
        choice(Contract, contract, "contract"),
        choice(Overflow, overflow, "overflow"),
        choice(NanRule, nan, "nan"),
        smallest_amax,
    )
    names = property_names(terms, dtypes)
    _check_arguments(fn, terms, mode, dtypes, as_tensor, budget, skip, names)
    subject = Subject(fn, terms, as_tensor, device, mode)
    wanted = [name for name in names if name not in skip]
    findings = list(_findings(subject, wanted, dtypes, budget, seed, random_bits))
    diagnoses = diagnose(terms, subject.observations)
    stochastic = next((finding.kind for finding in findings if finding.property.startswith("SR ")), None)
    failures = tuple(describe(finding, diagnoses, stochastic) for finding in findings)
    title = f"{getattr(fn, '__name__', type(fn).__name__)} as {spec} ({terms.contract.value})"
    return CheckReport(title, tuple(wanted), failures, {"calls": float(subject.calls)})


def assert_quantizer(fn: Callable[..., Any], scheme: Scheme | str, **options: Any) -> None:
    """`check_quantizer(fn, scheme, **options)`; AssertionError with every failure's explanation."""
    check_quantizer(fn, scheme, **options).raise_if_failed()


def property_names(terms: Terms, dtypes: Sequence[str] = ("float32",)) -> tuple[str, ...]:
    """What is checked under these terms, in order; these names are what `skip` takes."""
    names = [name for name, _, _ in battery(terms.scheme, dtypes, 64, 0)]
    names += [relation.name for relation in RELATIONS if relation.holds(terms)]
    if terms.scheme.stochastic:
        names += ["SR keeps exact values", "SR gives a neighbour", "SR frequencies", "SR is unbiased", "SR seeds"]
        names += ["SR elements are independent"]
    return tuple(dict.fromkeys(names))


def _check_arguments(
    fn: Any,
    terms: Terms,
    mode: str,
    dtypes: Sequence[str],
    as_tensor: bool,
    budget: int,
    skip: Collection[str],
    names: Sequence[str],
) -> None:
    if not callable(fn):
        raise TypeError(f"fn: got {type(fn).__name__}, accepted: a callable x -> values, codes and scale, or an object")
    if mode not in MODES:
        raise ValueError(f"mode: got {mode!r}, accepted: {', '.join(MODES)}")
    if isinstance(dtypes, str) or not dtypes or set(dtypes) - set(DTYPES):
        raise ValueError(f"dtypes: got {dtypes!r}, accepted: a sequence of {', '.join(DTYPES)}")
    if "bfloat16" in dtypes and not as_tensor:
        raise ValueError("dtypes: got bfloat16, accepted: only with as_tensor=True, because numpy has no such type")
    if budget < 64:
        raise ValueError(f"budget: got {budget}, accepted: at least 64 elements")
    if isinstance(skip, str) or set(skip) - set(names):
        unknown = skip if isinstance(skip, str) else ", ".join(sorted(set(skip) - set(names)))
        raise ValueError(f"skip: got {unknown!r}, accepted: a collection of {', '.join(names)}")
    if terms.contract is Contract.NARROWGAUGE and terms.overflow is not Overflow.SATURATE:
        raise ValueError(f"overflow: got {terms.overflow.value!r}, accepted under this contract: 'saturate'")


def _findings(
    subject: Subject, wanted: Sequence[str], dtypes: Sequence[str], budget: int, seed: int, random_bits: int
) -> Iterator[Finding]:
    for name, dtype, matrices in battery(subject.terms.scheme, dtypes, budget, seed):
        if name in wanted:
            yield from run_values(subject, name, dtype, matrices)
    rng = np.random.default_rng(seed)
    for relation in RELATIONS:
        if relation.name in wanted:
            yield from run_relation(subject, relation, rng)
    if subject.terms.scheme.stochastic:
        for finding in stochastic_findings(subject, budget, seed, random_bits):
            if finding.property in wanted:
                yield finding
