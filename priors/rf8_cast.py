"""RF8 on the weights of a trained model: direct cast and scaled, with what was flushed and clipped (arXiv 2506.00486).

The paper casts once, after training, without a scale, and activations stay as they are. An 8-bit code has 16 exponents,
so that the window has to be placed: `rf8:static=1.0` is the direct cast with bias 15 (1.25 · 2^-15 … 1.25, clipped
above); `rf8b<bias>:static=1.0` with another bias, which `rf8_bias` picks for a tensor; `rf8:pow2` and `rf8/row:pow2`
are a bias for each tensor or row, kept as a power of two; `rf8`, `rf8/row`, `rf8/1x128` scale by amax; of
`rf8/row:percentile=99.9` the scale is that of a high quantile, which clips the few above and flushes fewer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from narrowgauge.formats import Scheme, parse
from narrowgauge.formats.rf8 import bias_for
from narrowgauge.kernels import QuantizedTensor, quantize
from narrowgauge.numerics import sqnr_db
from narrowgauge.priors.pooled import pool

DIRECT = "rf8:static=1.0"
"""The direct cast: no scale, bias 15."""
_ROUNDED = 1.0 + 2.0**-20
"""What float32 scales may leave of the largest magnitude without its being clipped."""


@dataclass(frozen=True)
class CastError:
    """What a cast did to a tensor. flushed: share of the elements that are zero now and were not. clipped: share whose
    magnitude exceeds what the largest value of the format stands for. worst: the largest relative error of the elements
    that were not flushed. sqnr_db: infinite for an exact cast."""

    name: str
    scheme: str
    count: int
    flushed: float
    clipped: float
    worst: float
    sqnr_db: float

    @property
    def relative_rms(self) -> float:
        """‖error‖ / ‖x‖."""
        return 10.0 ** (-self.sqnr_db / 20.0)


def rf8_bias(x: Tensor, quantile: float = 1.0) -> int:
    """The exponent bias of RF8 whose window ends at a quantile of |x| (1: the largest); see `formats.rf8.bias_for`.

    ValueError for quantiles outside (0, 1], NaN, infinities, and where the quantile is zero.
    """
    if not 0.0 < quantile <= 1.0:
        raise ValueError(f"quantile: got {quantile}, accepted: above 0, at most 1 (the largest magnitude)")
    amax = pool([("x", x)]).amax
    if quantile < 1.0:
        magnitudes = x.detach().double().abs().reshape(-1)
        amax = float(magnitudes.kthvalue(max(1, math.ceil(quantile * magnitudes.numel()))).values)
    if amax == 0.0:
        raise ValueError(f"x: its quantile {quantile} of magnitudes is 0, accepted: tensors with larger ones")
    return bias_for(amax)


def cast_error(name: str, x: Tensor, q: QuantizedTensor) -> CastError:
    """What quantising x to q lost. x is finite."""
    values = q.dequantize(torch.float64)
    wide = x.detach().double()
    magnitude = wide.abs()
    error = (values - wide).abs()
    flushed = (values == 0) & (wide != 0)
    relative = (error / magnitude).masked_fill_((values == 0) | (wide == 0), 0.0)
    return CastError(
        name,
        q.text,
        wide.numel(),
        _share(flushed),
        _share(_at_an_end(q) & (magnitude > _ROUNDED * values.abs())),
        float(relative.max()) if relative.numel() else 0.0,
        sqnr_db(values, wide),
    )


def _share(chosen: Tensor) -> float:
    return int(chosen.sum()) / max(1, chosen.numel())


def _at_an_end(q: QuantizedTensor) -> Tensor:
    """Which codes are those of the largest or the most negative value."""
    element = q.scheme.element
    top, bottom = (int(element.encode(value)) for value in (element.max, element.min))
    return (q.codes == top) | (q.codes == bottom)


@torch.no_grad()
def rf8_cast(
    model: nn.Module,
    scheme: str | Scheme | Callable[[Tensor], str | Scheme] = DIRECT,
    *,
    matrices_only: bool = True,
    filter_fn: Callable[[str, nn.Parameter], bool] | None = None,
) -> list[CastError]:
    """Replaces a model's weights, in place and in their dtype, by what their codes decode to; says what was lost.

    scheme: what to cast to: see the module, and any other scheme to compare with; or a function of the weight, such as
        `lambda w: f"rf8b{rf8_bias(w, 0.9999)}:static=1.0"`. matrices_only: leave out biases and norm gains (the
        released code does not). filter_fn(name, parameter): further choice. Tied parameters are cast once.

    For codes instead of values, with products that read them: `narrowgauge.nn.inference.quantize_for_inference(model,
    "rf8/row")`. Nothing is written unless everything can be. ValueError for NaN and infinities and for unknown schemes;
    TypeError for dtypes that are not quantised. The first two name the parameter.
    """
    made: list[tuple[nn.Parameter, QuantizedTensor]] = []
    errors: list[CastError] = []
    for name, parameter in model.named_parameters():
        if (matrices_only and parameter.ndim < 2) or (filter_fn is not None and not filter_fn(name, parameter)):
            continue
        pool([(name, parameter)])  # refuses NaN, infinities and the meta device
        q = quantize(parameter, parse(scheme(parameter.detach()) if callable(scheme) else scheme))
        made.append((parameter, q))
        errors.append(cast_error(name, parameter, q))
    for parameter, q in made:
        parameter.copy_(q.dequantize())
    return errors
