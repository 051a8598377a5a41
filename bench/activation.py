"""What a Llama block saves for backward under each policy, what that costs in time and in accuracy.

The unit of memory is one hidden state in bfloat16, 2·batch·tokens·width bytes (the unit of arXiv 2410.19313, whose
count is 22.66 for a plain block and 13.33 for COAT). Outputs must have the bits of the plain block before speed counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor, nn

from narrowgauge.bench.machine import check_device
from narrowgauge.bench.report import Row, SuiteResult
from narrowgauge.bench.timer import time_interleaved
from narrowgauge.nn import POLICIES, ActivationPolicy, compress_activations, get_policy
from narrowgauge.numerics import sqnr_db
from narrowgauge.train import BatchStream, ByteCorpus, Llama, LlamaConfig, Trainer
from narrowgauge.train.model import rope_tables

BASELINE = "plain"
PLAIN = ActivationPolicy(name=BASELINE, source="everything as it is")
SEED = 20260101
MLP_RATIO = 2.6875
HEAD_DIM = 64
CORPUS_BYTES = 400_000
LEARNING_RATE = 1e-3
SMALL = LlamaConfig(dim=64, num_layers=2, num_heads=2, num_kv_heads=1, ffn_dim=172, max_seq_len=64)
"""The model that is trained for the loss gap."""
Result = tuple[Tensor, list[Tensor]]
Call = Callable[[], Result]


class _Block(nn.Module):
    """One block of a Llama, with its rotary tables."""

    def __init__(self, width: int, tokens: int, dtype: torch.dtype) -> None:
        super().__init__()
        heads = width // HEAD_DIM
        config = LlamaConfig(
            dim=width,
            num_layers=1,
            num_heads=heads,
            num_kv_heads=heads,
            ffn_dim=round(width * MLP_RATIO),
            max_seq_len=tokens,
        )
        self.block = Llama(config, seed=0).layers[0].to(dtype)
        for name, table in zip(("cos", "sin"), rope_tables(tokens, HEAD_DIM, config.rope_theta), strict=True):
            self.register_buffer(name, table.to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x, self.cos, self.sin)
        return out


def _forward_backward(block: nn.Module, x: Tensor) -> Call:
    """A call that gives the output and the gradients of x and of all parameters."""
    inputs = [x, *block.parameters()]

    def call() -> Result:
        y = block(x)
        return y.detach(), list(torch.autograd.grad(y, inputs, y.detach()))

    return call


def _worst_gradient(policy: ActivationPolicy, x: Tensor, exact: Result) -> float:
    """The lowest signal-to-noise ratio of a gradient in dB, in float32; AssertionError if the output differs."""
    block = _Block(x.shape[2], x.shape[1], torch.float32).to(x.device)
    compress_activations(block, policy)
    output, gradients = _forward_backward(block, x.clone().requires_grad_())()
    if not torch.equal(output, exact[0]):
        raise AssertionError(f"{policy.name}: the output is not that of the plain block")
    return min(sqnr_db(own, other) for own, other in zip(gradients, exact[1], strict=True))


def loss_gap_percent(policy: ActivationPolicy, steps: int, seeds: Sequence[int]) -> float:
    """By how many percent the validation loss of a small Llama, trained on the standard library's sources, lies above
    that of a run without compression: the mean over `seeds`, of either sign."""
    gaps = [_validation_loss(policy, steps, seed) / _validation_loss(PLAIN, steps, seed) - 1 for seed in seeds]
    return 100 * sum(gaps) / len(gaps)


@cache
def _validation_loss(policy: ActivationPolicy, steps: int, seed: int) -> float:
    model = Llama(SMALL, seed=seed)
    compress_activations(model, policy)
    data = BatchStream(ByteCorpus(max_bytes=CORPUS_BYTES), batch_size=8, seq_len=SMALL.max_seq_len, seed=seed)
    trainer = Trainer(model, data, torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE), seed=seed)
    trainer.fit(steps)
    return trainer.evaluate()["val_loss"]


def run_suite(
    size: int = 512,
    policies: Sequence[str] | None = None,
    *,
    batch: int = 2,
    tokens: int = 256,
    train_steps: int = 60,
    seeds: Sequence[int] = (0, 1),
    device: torch.device | str = "cpu",
    repetitions: int = 15,
) -> SuiteResult:
    """Measures a bfloat16 block of width `size` on [batch, tokens, size] under `policies` (None: all).

    Figures: saved_units, the memory kept for backward; milliseconds, forward and backward; sqnr_db, of the worst of all
    gradients in float32; loss_gap_percent, if `train_steps` is above 0. Raises ValueError for a size that is not a
    multiple of 64 and unknown policies, AssertionError if an output differs from the plain block's.
    """
    check_device(device)
    if size < HEAD_DIM or size % HEAD_DIM:
        raise ValueError(f"size: expected a multiple of {HEAD_DIM}, got {size}")
    chosen = [get_policy(name) for name in (POLICIES if policies is None else policies)]
    x = torch.randn((batch, tokens, size), generator=torch.Generator().manual_seed(SEED)).to(device)
    figures: dict[str, dict[str, float]] = {}
    calls: dict[str, Call] = {}
    exact = _forward_backward(_Block(size, tokens, torch.float32).to(device), x.clone().requires_grad_())()
    for policy in (PLAIN, *chosen):
        block = _Block(size, tokens, torch.bfloat16).to(device)
        calls[policy.name] = _forward_backward(block, x.bfloat16().requires_grad_())
        handle = compress_activations(block, policy)
        out = block(x.bfloat16().requires_grad_() * 1)  # in the graph, as the output of the block before would be
        figures[policy.name] = {
            "saved_units": handle.saved.bytes_kept / (2 * x.numel()),
            "sqnr_db": _worst_gradient(policy, x, exact),
        }
        del out
        if policy is PLAIN:
            handle.remove()
        if train_steps:
            figures[policy.name]["loss_gap_percent"] = loss_gap_percent(policy, train_steps, seeds)
    timings = time_interleaved(calls, device=device, repetitions=repetitions)
    base = timings[BASELINE].median
    rows = [
        Row(name, timing, timing.median / base, {"milliseconds": timing.median * 1e3, **figures[name]})
        for name, timing in timings.items()
    ]
    settings = {"width": size, "batch": batch, "tokens": tokens, "dtype": "bfloat16", "device": str(x.device)}
    training = {"train_steps": train_steps, "seeds": list(seeds), "learning_rate": LEARNING_RATE}
    return SuiteResult("activation", {**settings, **training, "repetitions": repetitions, "seed": SEED}, BASELINE, rows)
