"""Planted faults in quantisers are found before anything is timed; right ones pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from narrowgauge.bench.peer import own_result
from narrowgauge.bench.poison import WrongResult
from narrowgauge.bench.quantize_check import (
    check_conformance,
    check_dequantizer,
    check_function,
    check_own,
    check_pair,
    fresh,
)
from narrowgauge.bench.quantize_competitors import own_quantizer
from narrowgauge.formats import parse
from narrowgauge.kernels.quantize_pair import QUANTIZE_PAIR

SPEC = parse("e4m3fn/row")
X = torch.zeros(96, 40)
Codes = tuple[Tensor, Tensor]


def in_torch(x: Tensor) -> Codes:
    """Somebody's quantiser: the right result but for roundings of the scale."""
    scale = x.abs().amax(dim=1, keepdim=True) / 448.0
    return (x / scale).clamp(-448, 448).to(torch.float8_e4m3fn), scale


def zeros(x: Tensor) -> Codes:
    return torch.zeros(x.shape, dtype=torch.uint8), torch.zeros(x.shape[0], 1)


class Caching:
    """Answers the first call, and gives the same again."""

    def __init__(self) -> None:
        self.kept: Codes | None = None

    def __call__(self, x: Tensor) -> Codes:
        self.kept = self.kept or in_torch(x)
        return self.kept


def leaves_gaps(x: Tensor) -> Codes:
    """The last rows of memory that it took are not written, as by a grid that is too small."""
    codes, scale = in_torch(x)
    out = torch.empty(x.shape, dtype=torch.uint8)
    out[: x.shape[0] // 32 * 32 - 1] = codes.view(torch.uint8)[: x.shape[0] // 32 * 32 - 1]
    return out, scale


def rounds_down(x: Tensor) -> Codes:
    codes, scale = in_torch(x)
    below = codes.float() > x / scale
    return torch.where(below, codes.view(torch.uint8) - 1, codes.view(torch.uint8)), scale


def swaps_scales(x: Tensor) -> Codes:
    codes, scale = in_torch(x)
    return codes, scale.flip(0)


def writes_to_x(x: Tensor) -> Codes:
    result = in_torch(x)
    x.mul_(1.5)
    return result


def only_codes(x: Tensor) -> Tensor:
    return in_torch(x)[0]


def two_bytes(x: Tensor) -> Codes:
    return in_torch(x)[0].half(), in_torch(x)[1]


def one_scale(x: Tensor) -> Codes:
    return in_torch(x)[0], x.abs().amax()


def breaks(x: Tensor) -> Codes:
    raise RuntimeError("out of shared memory\nrequired: 1")


FAULTS = {
    breaks: r"raised RuntimeError: out of shared memory$",
    zeros: "scale: 96 of 96 are wrong",
    leaves_gaps: r"codes: \d+ of 3840 are wrong; first at \(95, 0\): got 255",
    rounds_down: "% differ by one level, at most 0.1 % may",
    swaps_scales: "scale: 9[0-6] of 96 are wrong",
    writes_to_x: "it wrote to x",
    only_codes: "returned Tensor, expected",
    two_bytes: r"codes: got torch.float16 \[96, 40\], expected a byte for each element",
    one_scale: r"scale: got \[\], expected \[96, 1\]",
}


@pytest.mark.parametrize("function", FAULTS, ids=lambda function: function.__name__)
def test_wrong_functions_are_refused(function) -> None:
    with pytest.raises(WrongResult, match=FAULTS[function]):
        check_function(X, SPEC, function)


def test_a_cached_answer_is_noticed_at_once_and_after_the_timing() -> None:
    with pytest.raises(WrongResult, match=r"scale: 9[0-6] of 96 are wrong"):
        check_function(X, SPEC, Caching())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_right_functions_pass(dtype: torch.dtype) -> None:
    def widened(x: Tensor) -> Codes:
        return in_torch(x.float())

    assert check_function(X.to(dtype), SPEC, widened) > 99.9


@pytest.mark.parametrize("scheme", ["mxfp8", "int8/1x16", "nf4/row", "int4:sawb"])
def test_our_own_quantizer_passes_as_a_function(scheme: str) -> None:
    assert check_function(torch.zeros(8, 64), parse(scheme), own_quantizer(parse(scheme))) == 100.0


def test_wrong_scale_codes_of_a_block_format_are_noticed() -> None:
    def wrong(x: Tensor) -> Codes:
        codes, scale = own_quantizer(parse("mxfp8"))(x)
        return codes, scale + 1

    with pytest.raises(WrongResult, match="scale: 16 of 16 are wrong"):
        check_function(torch.zeros(8, 64), parse("mxfp8"), wrong)
    with pytest.raises(WrongResult, match=r"scale: got torch.int32, expected codes as wide as torch.uint8"):
        check_function(torch.zeros(8, 64), parse("mxfp8"), lambda x: (wrong(x)[0], wrong(x)[1].int()))


@pytest.mark.parametrize(
    ("scheme", "message"), [("e4m3fn/row+sr", "random numbers"), ("nvfp4", "two levels of scales")]
)
def test_schemes_that_a_function_cannot_repeat_are_refused(scheme: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_function(X, parse(scheme), in_torch)


def test_every_draw_is_new() -> None:
    first, second = fresh(X), fresh(X)
    assert first.shape == X.shape
    assert not torch.equal(first, second)
    assert fresh(X.bfloat16()).dtype == torch.bfloat16


def off_by_one(place: int):
    def change(result: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        changed = [part.clone() for part in result]
        changed[place].reshape(-1).view(torch.uint8)[-1] ^= 1
        return tuple(changed)

    return change


@pytest.mark.parametrize("scheme", ["e4m3fn/row", "nvfp4", "int8+sr"])
@pytest.mark.parametrize("place", [0, 1])
def test_one_bit_of_ours_is_noticed(scheme: str, place: int) -> None:
    spec = parse(scheme)
    right = own_quantizer(spec)
    for check in (check_own, check_conformance):
        check(X if check is check_own else fresh(X), spec, right)
        with pytest.raises(AssertionError, match="1 of"):
            check(X if check is check_own else fresh(X), spec, lambda x: off_by_one(place)(right(x)))


def test_reading_back_is_checked() -> None:
    check_dequantizer(X, SPEC, lambda q: q.dequantize())
    with pytest.raises(AssertionError, match="elements differ"):
        check_dequantizer(X, SPEC, lambda q: q.dequantize() * 2)
    kept = own_result(fresh(X), SPEC).dequantize()
    with pytest.raises(AssertionError, match="elements differ"):
        check_dequantizer(X, SPEC, lambda q: kept)


@pytest.mark.parametrize("place", [0, 1, 3, 4])
def test_pairs_are_checked(place: int) -> None:
    def pair(x: Tensor) -> tuple[Tensor, ...]:
        return QUANTIZE_PAIR(x, "e4m3fn/row", "e4m3fn/row", 0, 0, 0)

    check_pair(X, SPEC, pair)
    with pytest.raises(AssertionError, match="1 of"):
        check_pair(X, SPEC, lambda x: off_by_one(place)(pair(x)))
