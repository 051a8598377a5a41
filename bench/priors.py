"""The figures of docs/priors.md: how near fits come to the truth, and what BackSlash costs beside a training step.

python -m narrowgauge.bench.priors fits
python -m narrowgauge.bench.priors cost
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch

from narrowgauge.bench.machine import describe_machine
from narrowgauge.nn import convert, get_recipe
from narrowgauge.optim import AdamW
from narrowgauge.priors import BackSlash, GeneralizedGaussian, fit_rows, scaled_strength
from narrowgauge.train import BatchStream, ByteCorpus, Llama, LlamaConfig, cross_entropy

SHAPES = (0.3, 0.5, 0.85, 1.0, 1.36, 1.54, 2.0, 2.5, 3.0)
SCALE = 0.05
BETAS = (0.9, 0.95)


def fit_errors(count: int = 1_000_000, seeds: int = 8) -> dict[tuple[str, float], tuple[float, float]]:
    """(method, shape) → largest relative error of shape and largest |ln| of the scale's ratio over `seeds` samples of
    `count` float32 values."""
    worst: dict[tuple[str, float], tuple[float, float]] = {}
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        x = torch.stack([GeneralizedGaussian(shape, SCALE).sample(count, generator=generator) for shape in SHAPES])
        for method in ("ratio", "mle"):
            found = fit_rows(x, method)
            for shape, nu, alpha in zip(SHAPES, found.shapes.tolist(), found.scales.tolist(), strict=True):
                before = worst.get((method, shape), (0.0, 0.0))
                errors = abs(nu / shape - 1), abs(math.log(alpha / SCALE))
                worst[method, shape] = max(before[0], errors[0]), max(before[1], errors[1])
    return worst


def step_costs(recipe: str | None, mode: str, steps: int = 40) -> tuple[float, float]:
    """Milliseconds of a training step of the demo's model with BackSlash, and how many of them BackSlash itself takes:
    the median step, and the mean over `steps` steps of the time in its own work, a tenth of which estimate the shape.
    recipe None: float32 and torch's AdamW."""
    corpus = ByteCorpus(max_bytes=400_000)
    batch = next(BatchStream(corpus, batch_size=8, seq_len=128, seed=0))
    model: torch.nn.Module = Llama(LlamaConfig.preset("demo"))
    count = sum(p.numel() for p in model.parameters())
    if recipe is None:
        inner: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=BETAS)
    else:
        model = convert(model, get_recipe(recipe))
        inner = AdamW(model.parameters(), lr=1e-3, betas=BETAS, state="log8")
    optimizer = BackSlash(inner, strength=scaled_strength(count), mode=mode, every=10)
    own: list[float] = []

    def timed(work: Callable[[], None]) -> Callable[[], None]:
        def measured() -> None:
            start = time.perf_counter()
            work()
            own.append(1e3 * (time.perf_counter() - start))

        return measured

    term = optimizer.term
    term.pull, term.add_gradients = timed(term.pull), timed(term.add_gradients)  # type: ignore[method-assign]
    whole = []
    for _ in range(steps):
        start = time.perf_counter()
        optimizer.zero_grad()
        cross_entropy(model, batch).backward()
        optimizer.step()
        whole.append(1e3 * (time.perf_counter() - start))
    return statistics.median(whole), statistics.fmean(own)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints one of the two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("fits", "cost"))
    what = parser.parse_args(argv).what
    torch.set_num_threads(1)
    print(describe_machine())
    if what == "fits":
        for (method, shape), (of_shape, of_scale) in fit_errors().items():
            print(f"{method:>5} {shape:>5}  shape {100 * of_shape:5.2f} %  scale {100 * of_scale:6.2f} %")
        return 0
    for recipe in (None, "fp8_row"):
        for mode in ("decoupled", "in_loss"):
            whole, own = step_costs(recipe, mode)
            share = 100 * own / (whole - own)
            print(
                f"{recipe or 'float32'}, {mode}: step {whole:.1f} ms, of it BackSlash {own:.2f} ms, {share:.1f} % more"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
