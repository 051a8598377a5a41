"""One training step of a Llama under each recipe, against the same step in float32: forward, backward, AdamW.

Each row is measured in turn with the baseline. The scaled GEMM is held to its reference on its own samples before any
speed counts; beside the time stands the signal-to-noise ratio of all gradients of the first step against float32's,
which shows that a row quantises what it says.

The work is counted as 6·N FLOPs a token, N the weights in matrix products: two of the forward and four of the backward
pass, without the products of attention (arXiv 2001.08361, section 2.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from narrowgauge.bench.ceilings import Ceilings, Probes
from narrowgauge.bench.compiler import why_not_compiled
from narrowgauge.bench.conformance import check_samples
from narrowgauge.bench.machine import check_device
from narrowgauge.bench.report import Row, SuiteResult
from narrowgauge.bench.timer import time_interleaved
from narrowgauge.bench.train_step_peers import PEERS
from narrowgauge.kernels.gemm import GEMM
from narrowgauge.nn import Recipe, convert, get_recipe
from narrowgauge.numerics import sqnr_db
from narrowgauge.train import Llama, LlamaConfig, cross_entropy
from narrowgauge.train.data import Batch

BASELINE = "fp32"
DTYPE = "float32"
DEFAULT_RECIPES = ("fp8_tensor", "fp8_row", "fp8_deepseek", "mxfp8")
SEED = 20260101
LEARNING_RATE = 1e-4
HEAD_DIM = 64
FFN_MULTIPLE = 128
FLOPS_PER_WEIGHT = 6
Make = Callable[[], nn.Module]
Show = Callable[[int, int, str], None]


class Step:
    """A model, its optimizer (torch's fused AdamW, for all) and a batch; a call is one step of training."""

    def __init__(self, model: nn.Module, batch: Batch) -> None:
        self.model, self.batch = model, batch
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)

    def __call__(self) -> None:
        """Forward, backward, update."""
        self.backward()
        self.optimizer.step()

    def backward(self) -> None:
        """Forward and backward."""
        self.optimizer.zero_grad(set_to_none=True)
        cross_entropy(self.model, self.batch).backward()

    def gradients(self) -> Tensor:
        """All gradients, one after the other."""
        self.backward()
        return torch.cat([p.grad.flatten() for p in self.model.parameters() if p.grad is not None])


def sizes(width: int, layers: int, tokens: int) -> LlamaConfig:
    """The model: heads of 64, an MLP of 8/3 of the width, up to a multiple of 128. ValueError for other widths than
    multiples of 64."""
    if width < HEAD_DIM or width % HEAD_DIM:
        raise ValueError(f"width: expected a multiple of {HEAD_DIM}, got {width}")
    heads = width // HEAD_DIM
    ffn_dim = -(-8 * width // (3 * FFN_MULTIPLE)) * FFN_MULTIPLE
    return LlamaConfig(
        dim=width, num_layers=layers, num_heads=heads, num_kv_heads=heads, ffn_dim=ffn_dim, max_seq_len=tokens
    )


def run_suite(
    recipes: Sequence[str | Recipe] | None = None,
    *,
    width: int = 512,
    layers: int = 4,
    batch: int = 4,
    tokens: int = 256,
    device: torch.device | str = "cpu",
    repetitions: int = 9,
    peers: bool = True,
    compiled: bool = False,
    probes: Probes | None = None,
    show: Show | None = None,
    save: Callable[[SuiteResult], None] | None = None,
) -> SuiteResult:
    """Times a step on [batch, tokens] ids under `recipes` (None: some of 8 bits), the peers that are installed, and
    `compiled` the same under torch.compile.

    Figures: milliseconds; tokens_per_s; tflop_per_s, by the model's FLOPs, whatever a row computes besides, and
    peak_percent, its share of torch's large products in float32; sqnr_db, of all gradients of the first step against
    float32's. probes: what measures the ceilings. show(done, total, what is next) is called before each row, save with
    what there is after it.

    Raises AssertionError when the scaled GEMM is outside its bound, ValueError for unknown recipes and sizes that do
    not fit.
    """
    check_device(device)
    config = sizes(width, layers, tokens)
    chosen = [get_recipe(name) for name in (DEFAULT_RECIPES if recipes is None else recipes)]
    check_samples(GEMM, device)
    skipped: dict[str, str] = {}
    made: dict[str, Make] = {recipe.name: partial(_converted, config, device, recipe) for recipe in chosen}
    if peers:
        for name, change in PEERS.items():
            made[name] = partial(_changed, config, device, change)
    compilable = [BASELINE, *(recipe.name for recipe in chosen)]
    why_not = why_not_compiled(compiled, device)
    for name in compilable:
        if why_not is None:
            made[f"{name}, compiled"] = partial(_compiled, made.get(name, partial(_plain, config, device)))
        elif compiled:
            skipped[f"{name}, compiled"] = why_not
    ids = torch.randint(256, (batch, tokens + 1), generator=torch.Generator().manual_seed(SEED)).to(device)
    batches = {"input_ids": ids[:, :-1].contiguous(), "labels": ids[:, 1:].contiguous()}
    settings: dict[str, object] = {
        "width": width,
        "layers": layers,
        "ffn": config.ffn_dim,
        "batch": batch,
        "tokens": tokens,
    }
    settings |= {"parameters": Llama(config).num_parameters(), "repetitions": repetitions, "seed": SEED}
    settings |= {"dtype": DTYPE, "device": str(ids.device)}
    rows: list[Row] = []
    result = SuiteResult("train", settings, BASELINE, rows, skipped, ceilings={})
    base = Step(_plain(config, device), batches)
    race = _Race(base, base.gradients(), repetitions, Probes(device) if probes is None else probes)
    for number, (name, make) in enumerate(made.items()):
        if show is not None:
            show(number, len(made), name)
        try:
            rows += race.measured(name, make)
        except (ValueError, torch._dynamo.exc.TorchDynamoException) as reason:
            skipped[name] = str(reason).partition("\n")[0]
            continue
        if race.ceilings is not None:
            result = replace(result, ceilings=race.ceilings.figures())
        if save is not None:
            save(result)
    return result


class _Race:
    """The baseline, with which every row is measured in turn, and with the first row the ceilings as well."""

    def __init__(self, base: Step, expected: Tensor, repetitions: int, probes: Probes) -> None:
        self.base, self.expected, self.repetitions, self.probes = base, expected, repetitions, probes
        self.ceilings: Ceilings | None = None

    def measured(self, name: str, make: Make) -> Iterator[Row]:
        """The row, after the baseline's if it is the first one."""
        step = Step(make(), self.base.batch)
        fidelity = float(sqnr_db(step.gradients(), self.expected))
        first = self.ceilings is None
        calls: dict[str, Callable[[], object]] = {BASELINE: self.base, name: step}
        if first:
            calls |= self.probes.calls()
        timings = time_interleaved(calls, device=self.expected.device, repetitions=self.repetitions, warmup=1)
        if self.ceilings is None:
            self.ceilings = self.probes.read(timings)
        for row in (BASELINE, name) if first else (name,):
            timing = timings[row]
            figures = self._rates(timing.median, self.ceilings)
            figures["sqnr_db"] = float("inf") if row == BASELINE else fidelity
            yield Row(row, timing, timing.median / timings[BASELINE].median, figures)

    def _rates(self, seconds: float, ceilings: Ceilings) -> dict[str, float]:
        tokens = self.base.batch["input_ids"].numel()
        rate = model_flops(self.base.model) * tokens / seconds
        return {
            "milliseconds": seconds * 1e3,
            "tokens_per_s": tokens / seconds,
            "tflop_per_s": rate / 1e12,
            "peak_percent": ceilings.share_of_peak(rate, DTYPE),
        }


def model_flops(model: nn.Module) -> int:
    """FLOPs of training on one token, by the weights of the linear layers."""
    weights = (layer.weight for layer in model.modules() if isinstance(layer, nn.Linear))
    return FLOPS_PER_WEIGHT * sum(weight.numel() for weight in weights)


def _plain(config: LlamaConfig, device: torch.device | str) -> nn.Module:
    return Llama(config, seed=SEED).to(device)


def _converted(config: LlamaConfig, device: torch.device | str, recipe: Recipe) -> nn.Module:
    return convert(_plain(config, device), recipe)


def _changed(config: LlamaConfig, device: torch.device | str, change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return change(_plain(config, device))


def _compiled(make: Make) -> nn.Module:
    model: nn.Module = torch.compile(make())  # type: ignore[assignment]
    return model
