"""Normal floats: levels at the quantiles of N(0, 1), so that normal values use every code about equally often.

    φ = 1 − ¼ (1 / (2 h) + 1 / (2 h − 1)),  h = 2^(b−1)
    above zero   Φ⁻¹(φ + (½ − φ) i / h),            i = 0 … h − 1
    below zero   −Φ⁻¹(φ + (½ − φ) i / (h − 1)),     i = 0 … h − 2

and zero, divided by the largest. The construction of NF4 (Dettmers et al., arXiv 2305.14314, section 3) for b bits.
"""

from __future__ import annotations

from statistics import NormalDist


def normal_float(bits: int) -> tuple[float, ...]:
    """The 2^bits levels in [−1, 1], ascending: 2^(bits−1) − 1 below zero, 2^(bits−1) above. ValueError below 2 bits."""
    if bits < 2:
        raise ValueError(f"bits: got {bits}, accepted: 2 or more")
    half = 2 ** (bits - 1)
    outer = 1 - 0.25 * (1 / (2 * half) + 1 / (2 * half - 1))
    quantile = NormalDist().inv_cdf
    above = [quantile(outer + (0.5 - outer) * i / half) for i in range(half)]
    below = [-quantile(outer + (0.5 - outer) * i / (half - 1)) for i in range(half - 1)]
    return tuple(sorted(level / above[0] for level in [*below, 0.0, *above]))
