"""The two runs of the demo and what is measured of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from narrowgauge.bench import Machine, describe_machine
from narrowgauge.commands.measure import optimizer_state_bytes, sample_text, saved_for_backward
from narrowgauge.commands.output import note
from narrowgauge.commands.train_run import BETAS, default_device, on_grid
from narrowgauge.nn import convert, explain, get_recipe, probe_operands
from narrowgauge.optim import AdamW
from narrowgauge.priors import init_
from narrowgauge.train import (
    BatchStream,
    ByteCorpus,
    ConsoleLogger,
    History,
    Llama,
    LlamaConfig,
    Trainer,
    WarmupCosine,
    cross_entropy,
)
from narrowgauge.train.method import Method
from narrowgauge.train.optimizers import OptimizerFactory

DEFAULT_STEPS = 300
SIZES = LlamaConfig(dim=128, num_layers=4, num_heads=4, num_kv_heads=2, ffn_dim=384, max_seq_len=128)
BATCH_SIZE = 8
VALIDATION_BATCHES = 16
EVALUATIONS = 4
LR = 1e-3
WARMUP_SHARE = 0.1
WEIGHT_DECAY = 0.1
PROMPT = "def __init__("


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """What to compare. gg_shape: shape of the generalized Gaussian of the initial weights, None for the model's own
    normal ones. data: None for the standard library's sources. sizes: the model, trained on windows of max_seq_len."""

    steps: int = DEFAULT_STEPS
    recipe: str = "fp8_row"
    state: str = "log8"
    gg_shape: float | None = None
    data: str | None = None
    seed: int = 0
    device: str | None = None
    threads: int = 1
    sizes: LlamaConfig = SIZES
    batch_size: int = BATCH_SIZE


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """One training run. Losses in nats per byte; step_ms is a median; curves are (steps, values)."""

    val_loss: float
    state_bytes: int
    state_bytes_per_param: float
    saved_for_backward_bytes: int
    step_ms: float
    tokens_per_s: float
    seconds: float
    train_curve: tuple[list[int], list[float]]
    val_curve: tuple[list[int], list[float]]


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """Both runs. sqnr_db: slot → mean, min and the worst layer, of the trained quantised model; layers: `explain` of
    it; seconds: everything, from the corpus to the sample."""

    config: DemoConfig
    num_parameters: int
    device: str
    fp32: RunResult
    quantized: RunResult
    sqnr_db: Mapping[str, Mapping[str, Any]]
    layers: Any
    sample: str
    seconds: float
    machine: Machine

    @property
    def gap_percent(self) -> float:
        """How far the quantised run's validation loss is above fp32's, in percent of it."""
        return 100 * (self.quantized.val_loss / self.fp32.val_loss - 1)


def run_demo(config: DemoConfig) -> DemoResult:
    """Trains both models and measures them; ValueError for settings that do not fit together."""
    for name, value in (("steps", config.steps), ("threads", config.threads)):
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        return _run_demo(config)
    finally:
        torch.set_num_threads(before)


def _run_demo(config: DemoConfig) -> DemoResult:
    start = time.perf_counter()
    recipe, device = get_recipe(config.recipe), default_device(config.device)
    corpus = ByteCorpus(config.data)
    note(f"text: {corpus}; device: {device}")
    plain = _model(config)
    note(f"model: Llama, {plain.num_parameters():,} parameters; {config.steps} steps of {_tokens(config):,} bytes each")

    def torch_adamw(groups: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, lr=LR, betas=BETAS, weight_decay=WEIGHT_DECAY)

    def compressed_adamw(groups: Any) -> torch.optim.Optimizer:
        return AdamW(groups, lr=LR, betas=BETAS, weight_decay=WEIGHT_DECAY, state=config.state, seed=config.seed)

    # Made before the first run: what cannot be is noticed now, not after a minute.
    narrow = convert(_model(config), recipe)
    compressed_adamw(list(narrow.parameters()))
    fp32 = _train("fp32", plain, torch_adamw, corpus, config, device)
    quantized = _train(
        recipe.name, narrow, compressed_adamw, corpus, config, device, methods=on_grid(recipe, config.seed)
    )
    return DemoResult(
        config=config,
        num_parameters=plain.num_parameters(),
        device=str(device),
        fp32=fp32,
        quantized=quantized,
        sqnr_db=_operand_sqnr(narrow, corpus, config, device),
        layers=explain(narrow),
        sample=sample_text(narrow, PROMPT, device=device),
        seconds=time.perf_counter() - start,
        machine=describe_machine(),
    )


def _tokens(config: DemoConfig) -> int:
    return config.batch_size * config.sizes.max_seq_len


def _model(config: DemoConfig) -> Llama:
    model = Llama(config.sizes, seed=config.seed)
    if config.gg_shape is not None:
        # "match" keeps each matrix's standard deviation, so that only the tails differ.
        init_(model, config.gg_shape, mode="match", generator=torch.Generator().manual_seed(config.seed))
    return model


def _stream(corpus: ByteCorpus, config: DemoConfig) -> BatchStream:
    return BatchStream(
        corpus,
        batch_size=config.batch_size,
        seq_len=config.sizes.max_seq_len,
        seed=config.seed,
        validation_batches=VALIDATION_BATCHES,
    )


def _train(
    label: str,
    model: nn.Module,
    optimizer: OptimizerFactory,
    corpus: ByteCorpus,
    config: DemoConfig,
    device: torch.device,
    methods: Sequence[Method] = (),
) -> RunResult:
    history, stream = History(), _stream(corpus, config)
    start = time.perf_counter()
    trainer = Trainer(
        model,
        stream,
        optimizer,
        schedule=WarmupCosine(LR, config.steps, round(WARMUP_SHARE * config.steps)),
        methods=methods,
        eval_every=-(-config.steps // EVALUATIONS),
        logger=[ConsoleLogger(label), history],
        seed=config.seed,
        device=device,
    )
    metrics = trainer.fit(config.steps)
    seconds = time.perf_counter() - start
    state_bytes = optimizer_state_bytes(trainer.optimizer)
    step_ms = statistics.median(history["step_ms"])
    return RunResult(
        val_loss=metrics["val_loss"],
        state_bytes=state_bytes,
        state_bytes_per_param=state_bytes / sum(p.numel() for p in trainer.parameters),
        saved_for_backward_bytes=saved_for_backward(model, _first_batch(corpus, config, device)),
        step_ms=step_ms,
        tokens_per_s=_tokens(config) / step_ms * 1e3,
        seconds=seconds,
        train_curve=(history.steps("loss"), history["loss"]),
        val_curve=(history.steps("val_loss"), history["val_loss"]),
    )


def _first_batch(corpus: ByteCorpus, config: DemoConfig, device: torch.device) -> dict[str, torch.Tensor]:
    return {name: tensor.to(device) for name, tensor in next(_stream(corpus, config)).items()}


def _operand_sqnr(
    model: nn.Module, corpus: ByteCorpus, config: DemoConfig, device: torch.device
) -> dict[str, dict[str, Any]]:
    with probe_operands(model) as probe:
        cross_entropy(model, _first_batch(corpus, config, device)).backward()
    model.zero_grad(set_to_none=True)
    return probe.sqnr()
