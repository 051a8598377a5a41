"""The inputs on which `check_quantizer` compares every single element, property by property."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from narrowgauge.formats import Scheme
from narrowgauge.numerics.quantizers.cases import (
    Matrix,
    arranged,
    element_probes,
    every_bfloat16,
    every_float16,
    float64_sentinels,
    hard_matrices,
    ragged_shapes,
    random_magnitudes,
    scale_borders,
    thinned,
)


def battery(scheme: Scheme, dtypes: Sequence[str], budget: int, seed: int) -> Iterator[tuple[str, str, list[Matrix]]]:
    """(property, dtype of the input, matrices whose numbers that dtype holds), small and telling ones first."""
    rng = np.random.default_rng(seed)
    probes = element_probes(scheme.element)
    for dtype in dtypes:
        suffix = "" if dtype == "float32" else f" ({dtype})"
        if dtype == "float64":
            sentinels = thinned(float64_sentinels(scheme.element), budget)
            yield f"double rounding{suffix}", dtype, arranged(sentinels, scheme)
        if dtype in ("float32", "float64"):
            for name, values in probes.items():
                yield name + suffix, dtype, arranged(thinned(values, budget), scheme)
        for name, every, only in (
            ("every float16", every_float16, "float16"),
            ("every bfloat16", every_bfloat16, "bfloat16"),
        ):
            if dtype in ("float32", only):
                yield name + suffix, dtype, arranged(thinned(every(), budget), scheme)
    if "float32" not in dtypes:
        return
    if scheme.static is None:
        yield "scale borders", "float32", list(scale_borders(scheme, rng))
    for name, matrices in (
        ("hard cases", list(hard_matrices(finite=True).values())),
        ("NaN and infinities", list(hard_matrices(finite=False).values())),
        ("random magnitudes", [random_magnitudes((max(1, min(budget, 4096) // 64), 64), rng)]),
        ("ragged shapes", [rng.standard_normal(shape).astype(np.float32) for shape in ragged_shapes(scheme)]),
    ):
        yield name, "float32", [x for x in matrices if x.size <= budget]
