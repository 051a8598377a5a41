"""DeepShape as its authors first released it (arXiv 2506.00486): histogram specification of weights on a grid.

With f fraction bits and N weights w, taken as one sample:

1. q = round(2^f w), ties to even; P = the smallest q > 0 that at most n weights have (n = 1e-5 N; released: 1000 for
   some 10^8 weights);
2. on the weights with |w| <= P / 2^f: the shape ν and the scale α by the moment ratio and its table, and the mean, of
   which m = trunc(2^f mean);
3. target: ν' = shape_scale · ν, A' = std_scale · 2^f α (it is α that the second factor multiplies; the standard
   deviation changes by another one), weights exp(-(|x - m| / A')^ν') of x = m - P … m + P, normalised to sum 1;
4. the M weights with |q - m| <= P in the order of their q (equal ones in the order of their places): the first
   floor(M · weight(m - P)) become m - P, the next m - P + 1, and so on. Those left over at the end, at most 2 P + 1 and
   always the largest, keep their q, as do all outside: a small positive bias, and they may come to lie below others;
5. w = q / 2^f everywhere.

One pass; nothing is iterated. n = 0 would make P the end of the data and is refused; so are samples whose histogram is
thin where its mass lies, on which P cuts off what it should keep.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from narrowgauge.priors.fit import fit
from narrowgauge.priors.generalized_gaussian import GeneralizedGaussian

FRACTION_BITS = 13
SHARE_OF_THIN = 1e-5
"""n / N."""
LEAST_INSIDE = 0.9
"""Share of the weights that the cut has to keep."""
LEAST_EDGE = 8
"""Steps from zero to P: a coarser grid knows no shape."""
_WIDEST = 2.0**30


@dataclass(frozen=True)
class Reshaped:
    """values: float64, multiples of 2^-fraction_bits. fitted, target: see the module, in units of the weights.
    edge: P, in steps; None for methods that have none."""

    values: Tensor
    fitted: GeneralizedGaussian
    target: GeneralizedGaussian
    edge: int | None = None


def thin_count(adj_minnum: int | str, count: int) -> int:
    """n of so many weights. ValueError for 0 and fewer, TypeError for what is no number."""
    if adj_minnum == "auto":
        return max(1, round(SHARE_OF_THIN * count))
    if isinstance(adj_minnum, bool) or not isinstance(adj_minnum, int):
        raise TypeError(f"adj_minnum: got {adj_minnum!r}, accepted: an integer >= 1, or 'auto' (1e-5 of the values)")
    if adj_minnum < 1:
        raise ValueError(
            f"adj_minnum: got {adj_minnum}, which finds no end of the histogram and collapses it; accepted: >= 1, or "
            "'auto' (1e-5 of the values)"
        )
    return adj_minnum


def reshape_published(
    x: Tensor,
    shape_scale: float,
    std_scale: float,
    fraction_bits: int = FRACTION_BITS,
    adj_minnum: int | str = "auto",
    name: str = "x",
) -> Reshaped:
    """The published map of a flat sample of finite numbers. ValueError, with the sample's name, where it is too small,
    `adj_minnum` too large or the grid too coarse for a shape to be seen, or values exceed 2^30 steps."""
    thin = thin_count(adj_minnum, x.numel())
    unit = 2.0**fraction_bits
    wide = x.double()
    if float(wide.abs().max()) * unit >= _WIDEST:
        raise ValueError(
            f"fraction_bits: got {fraction_bits}, with which {name} exceeds 2^30 steps; accepted: fewer for values "
            f"as large as {float(wide.abs().max()):.3g}"
        )
    q = torch.round(wide * unit).to(torch.int32)
    edge = _edge(q, thin)
    if edge < LEAST_EDGE:
        raise ValueError(
            f"fraction_bits: got {fraction_bits}, with which the histogram of {name} ends {edge} steps from zero; "
            f"accepted: at least {LEAST_EDGE} (more fraction bits, a smaller adj_minnum, or more values)"
        )
    inside = wide[wide.abs() <= edge / unit]
    if inside.numel() < LEAST_INSIDE * x.numel():
        raise ValueError(
            f"adj_minnum: got {thin} for {x.numel()} values of {name}, whose histogram is as thin as that from "
            f"{edge / unit:.3g} on, with only {inside.numel() / x.numel():.0%} of the values inside; accepted: at "
            f"least {LEAST_INSIDE:.0%} (more values, as by pooling tensors; a smaller adj_minnum; fewer fraction bits)"
        )
    fitted = fit(inside, table=True)
    center = int(float(inside.mean()) * unit)
    target = GeneralizedGaussian(shape_scale * fitted.shape, std_scale * fitted.scale)
    return Reshaped(_specified(q, center, edge, target, unit).double() / unit, fitted, target, edge)


def _edge(q: Tensor, thin: int) -> int:
    """The smallest positive number that at most `thin` elements of q have."""
    # Fewer than N / thin numbers can have more than `thin`.
    last = q.numel() // (thin + 1) + 1
    counts = torch.bincount(q[(q > 0) & (q <= last)], minlength=last + 1)
    return 1 + int((counts[1:] <= thin).nonzero()[0])


def _specified(q: Tensor, center: int, edge: int, target: GeneralizedGaussian, unit: float) -> Tensor:
    """Steps 3 and 4."""
    places = ((q - center).abs() <= edge).nonzero().squeeze(1)
    order = places[torch.sort(q[places], stable=True).indices]
    distance = torch.arange(-edge, edge + 1, dtype=torch.float64, device=q.device).abs()
    weights = (-((distance / (target.scale * unit)) ** target.shape)).exp()
    counts = (order.numel() * (weights / weights.sum())).floor().to(torch.int64)
    levels = torch.arange(center - edge, center + edge + 1, dtype=q.dtype, device=q.device)
    given = torch.repeat_interleave(levels, counts)[: order.numel()]
    result = q.clone()
    result[order[: given.numel()]] = given
    return result
