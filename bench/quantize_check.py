"""Is what is timed right? Quantisers and dequantisers on the very shape, against the definition, before and after.

Every check draws new values, so that a result that was kept from an earlier call is none, and fills uninitialised
memory, so that an element that nobody wrote shows. The operator has to give the reference's bits. A function of
somebody else may differ where its float32 division rounds otherwise: its scales by a few units in the last place, and
then few codes, by one level each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

import numpy as np
import torch
from torch import Tensor

from narrowgauge.bench.peer import element_values, own_result
from narrowgauge.bench.poison import WrongResult, poison_freed, poisoned_memory
from narrowgauge.formats import Format, Scheme
from narrowgauge.kernels import QuantizedTensor, get_op
from narrowgauge.numerics import assert_bitwise

Codes = tuple[Tensor, Tensor]
Quantizer = Callable[[Tensor], Codes]

CONFORMANCE_ROWS = 64
SCALE_ERROR = 2.0**-20
"""Eight units in the last place of a float32: an amax, a division and a product."""
OTHER_CODES = 1e-3
"""The share of codes that such scales may change."""
_draws = count(1)


def fresh(like: Tensor) -> Tensor:
    """Normal values that no earlier call of this process has seen, of the same shape, dtype and device."""
    generator = torch.Generator(like.device).manual_seed(next(_draws))
    return torch.randn(like.shape, generator=generator, device=like.device).to(like.dtype)


def check_conformance(x: Tensor, spec: Scheme, run: Quantizer) -> None:
    """AssertionError, naming the first difference, unless `run` gives the reference's bits on the first rows of x."""
    part = x[:CONFORMANCE_ROWS].contiguous()
    codes, scale, _ = get_op("quantize").implementation("reference")(part.cpu(), str(spec), 0, 0)
    with poisoned_memory():
        own_codes, own_scale = run(part)
    assert_bitwise(own_codes.cpu(), codes)
    assert_bitwise(own_scale.cpu(), scale)


def check_own(like: Tensor, spec: Scheme, run: Quantizer) -> None:
    """AssertionError unless `run` gives the bits of the CPU's implementation on new values of that shape."""
    x = fresh(like)
    with poisoned_memory():
        result = run(x)
    _same_bits(result, x, spec)


def check_compiled(like: Tensor, spec: Scheme, run: Quantizer) -> None:
    """The same of a compiled function, for which another mode of torch would be compiled anew: what was freed, and is
    handed out again, is poisoned instead."""
    x = fresh(like)
    poison_freed(x.numel(), x.device)
    _same_bits(run(x), x, spec)


def _same_bits(result: Codes, x: Tensor, spec: Scheme) -> None:
    codes, scale, _ = get_op("quantize").implementation("torch")(x.cpu(), str(spec), 0, 0)
    assert_bitwise(result[0].cpu(), codes)
    assert_bitwise(result[1].cpu(), scale)


def check_dequantizer(like: Tensor, spec: Scheme, run: Callable[[QuantizedTensor], Tensor]) -> None:
    """The same of (a quantised tensor) → values in the dtype of `like`, against the reference on the first rows."""
    q = own_result(fresh(like), spec)
    with poisoned_memory():
        actual = run(q)
    arguments = (q.codes.cpu(), q.scale.cpu(), q.outer.cpu(), str(spec), like.dtype)
    assert_bitwise(actual.cpu(), get_op("dequantize").implementation("torch")(*arguments))
    part = own_result(fresh(like)[:CONFORMANCE_ROWS].contiguous(), spec)
    arguments = (part.codes.cpu(), part.scale.cpu(), part.outer.cpu(), str(spec), like.dtype)
    with poisoned_memory():
        actual = run(part)
    assert_bitwise(actual.cpu(), torch.as_tensor(get_op("dequantize").implementation("reference")(*arguments)))


def check_pair(like: Tensor, spec: Scheme, run: Callable[[Tensor], Sequence[Tensor]]) -> None:
    """The same of x → the codes, scales and outer scales of x and of its transpose."""
    x = fresh(like)
    with poisoned_memory():
        actual = run(x)
    quantize = get_op("quantize").implementation("torch")
    expected = [part for matrix in (x.cpu(), x.cpu().t()) for part in quantize(matrix, str(spec), 0, 0)]
    for ours, theirs in zip(actual, expected, strict=True):
        assert_bitwise(ours.cpu(), theirs)


def why_no_function(spec: Scheme) -> str | None:
    """Why a function x → (codes, scale) cannot be held to the scheme; None where it can."""
    if spec.stochastic:
        return f"a function is compared to nearest, as it does not know the random numbers of {spec}"
    return f"{spec} has two levels of scales, a function gives one" if spec.two_level else None


def check_function(like: Tensor, spec: Scheme, run: Quantizer) -> float:
    """Calls somebody's quantiser on new values twice; how many of 100 codes are the reference's.

    WrongResult, saying what is wrong, where codes or scales are not those of the scheme (see the module's docstring),
    x was written to, or `run` raises. ValueError for schemes that a function cannot be held to.
    """
    reason = why_no_function(spec)
    if reason is not None:
        raise ValueError(f"scheme: {reason}")
    shares = []
    for _ in range(2):
        x = fresh(like)
        ours, before = own_result(x, spec), x.clone()
        try:
            with poisoned_memory():
                result = run(x)
        except Exception as error:  # whatever somebody's kernel raises
            raise WrongResult(f"raised {type(error).__name__}: {str(error).partition(chr(10))[0]}") from error
        if not torch.equal(x, before):
            raise WrongResult("it wrote to x")
        shares.append(_compare(*_codes_and_scale(result, ours), ours))
    return 100 * min(shares)


def _codes_and_scale(result: object, ours: QuantizedTensor) -> Codes:
    if not (isinstance(result, tuple | list) and len(result) == 2 and all(isinstance(part, Tensor) for part in result)):
        raise WrongResult(f"returned {type(result).__name__}, expected (codes, scale), two tensors")
    codes, scale = result
    if codes.shape != ours.codes.shape or codes.element_size() != 1:
        raise WrongResult(
            f"codes: got {codes.dtype} {list(codes.shape)}, expected a byte for each element, {list(ours.codes.shape)}"
        )
    if scale.numel() != ours.scale.numel():
        raise WrongResult(f"scale: got {list(scale.shape)}, expected {list(ours.scale.shape)}")
    return codes, scale.reshape(ours.scale.shape)


def _compare(codes: Tensor, scale: Tensor, ours: QuantizedTensor) -> float:
    """The share of codes that are ours."""
    expected_scale = ours.scale
    if expected_scale.dtype == torch.float32:
        error = (scale.float() / expected_scale - 1).abs()
        wrong = ~(error <= SCALE_ERROR) & (scale.float() != expected_scale)
    else:
        if scale.element_size() != expected_scale.element_size():
            raise WrongResult(f"scale: got {scale.dtype}, expected codes as wide as {expected_scale.dtype}")
        wrong = scale.view(expected_scale.dtype) != expected_scale
    _refuse("scale", wrong, scale, expected_scale)
    actual, expected = codes.view(torch.uint8), ours.codes.view(torch.uint8)
    differs = actual != expected
    element = ours.scheme.element
    steps = (_levels(codes.view(ours.codes.dtype), element) - _levels(ours.codes, element)).abs()
    _refuse("codes", differs & ~(steps <= 1), actual, expected)
    share = float(differs.double().mean()) if differs.numel() else 0.0
    if share > OTHER_CODES:
        raise WrongResult(f"codes: {100 * share:.2f} % differ by one level, at most {100 * OTHER_CODES:g} % may")
    return 1.0 - share


def _levels(codes: Tensor, element: Format) -> Tensor:
    """The place of each code's value among all values of the format; NaN codes are at NaN."""
    values = element.values()
    levels = torch.from_numpy(np.unique(values[np.isfinite(values)]).astype(np.float32)).to(codes.device)
    decoded = element_values(codes, element)
    return torch.where(decoded.isfinite(), torch.searchsorted(levels, decoded).float(), float("nan"))


def _refuse(what: str, wrong: Tensor, actual: Tensor, expected: Tensor) -> None:
    if bool(wrong.any()):
        place = tuple(int(index) for index in wrong.nonzero()[0])
        raise WrongResult(
            f"{what}: {int(wrong.sum())} of {wrong.numel()} are wrong; first at {place}: got {actual[place].item()}, "
            f"expected {expected[place].item()}"
        )
