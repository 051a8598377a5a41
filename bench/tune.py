"""How products are launched: what the model of launches chooses for a target, or what is fastest on this GPU.

The model's choices need no GPU; the times beside them rank candidates and are no measurements. On a GPU every product
runs once within `tuning.measuring()`, and the fastest candidates are kept in the file that later processes read
(`kernels/tuning.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from narrowgauge.bench.machine import check_device
from narrowgauge.bench.model_shapes import Problem
from narrowgauge.formats import Scheme, parse
from narrowgauge.kernels import _gemm_model, quantize, tuning
from narrowgauge.kernels._gemm_checks import check_schemes
from narrowgauge.kernels._gemm_config import candidates, product_of
from narrowgauge.kernels._gpu_facts import GPUS
from narrowgauge.kernels.gemm import GEMM

Pair = tuple[Scheme, Scheme]


@dataclass(frozen=True)
class Launch:
    """A choice. how: "model" or "measured"; seconds: the model's, or measured ones. considered: candidates."""

    problem: str
    schemes: str
    config: dict[str, Any]
    how: str
    seconds: float
    considered: int


def pair_of(text: str) -> Pair:
    """The schemes of x and w: "X,W", or one for both. ValueError where they have no product."""
    first, _, second = text.partition(",")
    pair = parse(first), parse(second or first)
    check_schemes(*pair)
    return pair


def chosen_by_model(problems: Sequence[Problem], pairs: Sequence[str], target: str) -> list[Launch]:
    """The model's choice for every product on `target`, both operands contiguous along K. ValueError for a target that
    is not known, and where nothing can run."""
    if target not in GPUS:
        raise ValueError(f"target: got {target!r}, accepted: {', '.join(GPUS)}")
    launches = []
    for problem in problems:
        for text in pairs:
            product = product_of(problem.m, problem.n, problem.k, *pair_of(text))
            seconds = partial(_gemm_model.seconds, product=product, target=target)
            found = [config for config in candidates(product, target) if seconds(config) < float("inf")]
            if not found:
                raise ValueError(f"target: no candidate for {problem.name} of {text} fits {target}")
            best = min(found, key=seconds)
            launches.append(Launch(problem.name, text, best._asdict(), "model", seconds(best), len(found)))
    return launches


def measured(
    problems: Sequence[Problem],
    pairs: Sequence[str],
    device: torch.device | str,
    show: Callable[[int, int, str], None] = lambda done, total, at: None,
) -> list[tuning.Choice]:
    """Runs every product on a GPU and times its candidates, where that has not been done before; every decision of this
    process. show: told how many products are done, of how many, and which is next. ValueError for a device that is no
    GPU."""
    check_device(device)
    place = torch.device(device)
    if place.type != "cuda":
        raise ValueError(f"device: got {device}, accepted: cuda devices; on others nothing is measured (use a target)")
    todo = [(problem, text) for problem in problems for text in pairs]
    with tuning.measuring():
        for done, (problem, text) in enumerate(todo):
            show(done, len(todo), f"{problem.name} {text}")
            a, b = pair_of(text)
            x = quantize(torch.randn((problem.m, problem.k), device=place), a)
            w = quantize(torch.randn((problem.n, problem.k), device=place), b)
            scales = (side.factors() if side.scheme.two_level else side.scale for side in (x, w))
            GEMM(x.codes, next(scales), w.codes, next(scales), str(a), str(b), None, torch.bfloat16)
    return tuning.decisions()
