"""The training loop."""

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from narrowgauge.train.checkpoint import load_checkpoint, save_checkpoint
from narrowgauge.train.compose import MethodStack
from narrowgauge.train.data import Batch, BatchSource
from narrowgauge.train.gradients import accumulate, finite_loss_and_norm
from narrowgauge.train.loggers import Logger, Loggers
from narrowgauge.train.loss import cross_entropy, num_labelled
from narrowgauge.train.memory import memory_bytes
from narrowgauge.train.method import Method, Metrics
from narrowgauge.train.monitor import MonitorChoice, MonitorLogger, as_monitor, watched
from narrowgauge.train.optimizers import (
    OptimizerFactory,
    check_parameters,
    default_groups,
    set_learning_rate,
)
from narrowgauge.train.restore import restore_model, restore_optimizer
from narrowgauge.train.rng import derive_seed, global_state, isolated, set_global_state
from narrowgauge.train.schedule import Schedule


class Trainer:
    """Trains ``model`` on ``data`` with ``optimizer``; the same bits for the same ``seed``, resumed or not.

    ``optimizer`` is an optimizer of the model's trainable parameters, or a function that builds one from
    parameter groups (needed when a method changes the model's parameters or their groups). ``schedule`` maps
    step → learning rate; ``None`` keeps each group's own. ``grad_accumulation`` micro-batches make one step,
    each weighted by its labelled tokens, so that the gradient is that of one large batch. Gradients are
    clipped to the global norm ``clip_norm`` (``None``: not). Every ``eval_every`` steps, and after the last,
    the model is evaluated (0: never); every ``save_every`` steps, and after the last, a checkpoint is written
    to ``save_path`` (``None``: never). ``monitor`` (``True``, schemes, or a ``TensorMonitor``) measures now and then
    what formats would do to weights, activations and gradients; the run's numbers stay what they are. Its summaries
    go to the loggers, everything is in ``trainer.monitor.rows`` and ``trainer.monitor.report()``.

    ``model``, ``optimizer``, ``data``, ``step`` are what is trained now; ``name_map`` has the old → new names
    of parameters that a method's surgery renamed.

    Every step seeds torch's generators from (``seed``, step) and puts them back afterwards, so neither
    evaluation nor logging nor the caller's own draws change the run. Raises ``ValueError``/``TypeError`` for
    arguments that do not fit together.
    """

    def __init__(
        self,
        model: nn.Module,
        data: BatchSource,
        optimizer: torch.optim.Optimizer | OptimizerFactory,
        *,
        schedule: Schedule | None = None,
        methods: Sequence[Method] = (),
        grad_accumulation: int = 1,
        clip_norm: float | None = 1.0,
        eval_every: int = 0,
        save_every: int = 0,
        save_path: str | Path | None = None,
        logger: Logger | Sequence[Logger] | None = None,
        monitor: MonitorChoice = None,
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        if not isinstance(data, BatchSource):
            raise TypeError(f"data: expected a BatchSource such as BatchStream(corpus, …), got {type(data).__name__}")
        if grad_accumulation < 1:
            raise ValueError(f"grad_accumulation: expected at least 1, got {grad_accumulation}")
        if clip_norm is not None and not clip_norm > 0:
            raise ValueError(f"clip_norm: expected a number above 0 or None, got {clip_norm!r}")
        for name, every in (("eval_every", eval_every), ("save_every", save_every)):
            if every < 0:
                raise ValueError(f"{name}: expected 0 (never) or more, got {every}")
        if bool(save_every) != (save_path is not None):
            raise ValueError(
                f"save_path: expected together with save_every, got {save_path!r} and save_every={save_every}"
            )
        self.methods = MethodStack(methods)
        self.model, self.name_map = self.methods.surgery(model)
        if device is not None:
            self.model.to(device)
        self.device = next(self.model.parameters()).device
        self.optimizer = self._build(optimizer)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.data = self.methods.source(data)
        self.schedule, self.grad_accumulation, self.clip_norm = schedule, grad_accumulation, clip_norm
        self.eval_every, self.save_every, self.save_path = eval_every, save_every, save_path
        self.monitor = as_monitor(monitor, self.model)
        loggers = (logger,) if isinstance(logger, Logger) else tuple(logger or ())
        self.logger = Loggers(*loggers, *(() if self.monitor is None else (MonitorLogger(self.monitor),)))
        self.seed = seed
        self.step = 0
        self.methods.attach(self.model)

    def _build(self, optimizer: torch.optim.Optimizer | OptimizerFactory) -> torch.optim.Optimizer:
        if not isinstance(optimizer, torch.optim.Optimizer):
            optimizer = optimizer(self.methods.parameter_groups(self.model, default_groups(self.model)))
        elif regrouping := self.methods.overriding("parameter_groups"):
            raise ValueError(
                f"optimizer: {regrouping[0]!r} changes the parameter groups; expected a function"
                f" groups -> optimizer, got a ready {type(optimizer).__name__}"
            )
        check_parameters(self.model, optimizer)
        return optimizer

    def fit(self, steps: int) -> Metrics:
        """Train until ``steps`` steps are done in all (one call also finishes a resumed run); last metrics.

        Raises ``FloatingPointError`` that names the step when its loss or gradient is not finite; the weights
        are then those before that step. Raises ``ValueError`` when more than ``steps`` are already done.
        """
        if steps < self.step:
            raise ValueError(f"steps: {self.step} are already done, expected at least as many, got {steps}")
        metrics: Metrics = {}
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        try:
            self.logger.start(self.step, steps)
            while self.step < steps:
                with watched(self.monitor, self.step) as seen:
                    metrics = self._train_step()
                metrics |= seen
                if self._is_due(self.eval_every, steps):
                    metrics |= self.evaluate()
                self.logger.log(self.step, metrics)
                if self.save_path is not None and self._is_due(self.save_every, steps):
                    self.save(self.save_path)
        finally:
            self.logger.stop()
        return metrics

    def _is_due(self, every: int, steps: int) -> bool:
        return every > 0 and (self.step % every == 0 or self.step == steps)

    def _train_step(self) -> Metrics:
        start, step = time.perf_counter(), self.step
        self.model.train()
        factor = self.methods.lr_factor(step)
        lr = set_learning_rate(self.optimizer, None if self.schedule is None else self.schedule(step), factor)
        micro_batches = [
            self.methods.transform(next(self.data), step, self.seed, index) for index in range(self.grad_accumulation)
        ]
        self.optimizer.zero_grad(set_to_none=True)
        with isolated(self.device, derive_seed(self.seed, step)):
            self.methods.begin_step(self.model, step)
            mean_loss, metrics = accumulate(self._loss, micro_batches)
            self.methods.gradient(self.model, step)
            loss, norm = finite_loss_and_norm(self.parameters, mean_loss, self.clip_norm, step)
            old = self._parameter_values() if self.methods.needs_old_params else None
            self.optimizer.step()
            self.methods.post_step(self.model, step, old)
        self.step += 1
        seconds = time.perf_counter() - start
        tokens = sum(batch["input_ids"].numel() for batch in micro_batches)
        metrics |= {"loss": loss, "lr": lr, "grad_norm": norm}
        metrics |= {"tokens_per_s": tokens / seconds, "step_ms": seconds * 1e3}
        memory = memory_bytes(self.device)
        return metrics if memory is None else metrics | {"memory_bytes": memory}

    def _loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        return self.methods.loss(self.model, self._to_device(batch))

    def _parameter_values(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.model.named_parameters() if p.requires_grad}

    def _to_device(self, batch: Batch) -> Batch:
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}

    def evaluate(self) -> Metrics:
        """``val_loss``, the cross-entropy in nats per token of the validation batches; methods' metrics."""
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad(), isolated(self.device, derive_seed(self.seed, "evaluate")):
                return self._validate(self.model) | self.methods.evaluate(self.model, self._validate)
        finally:
            self.model.train(was_training)

    def _validate(self, model: nn.Module) -> Metrics:
        total, count = 0.0, 0
        for batch in self.data.validation():
            tokens = num_labelled(batch)
            total += cross_entropy(model, self._to_device(batch)).item() * tokens
            count += tokens
        if not count:
            raise ValueError("data: no token of the validation batches has a label")
        return {"val_loss": total / count}

    def save(self, path: str | Path) -> None:
        """Write a checkpoint folder (see :mod:`narrowgauge.train.checkpoint`), atomically."""
        loop = {
            "step": self.step,
            "seed": self.seed,
            "grad_accumulation": self.grad_accumulation,
            "optimizer": type(self.optimizer).__name__,
            "data": self.data.state_dict(),
            "rng": global_state(self.device),
        }
        sections = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        save_checkpoint(path, {**sections, "methods": self.methods.state_dict(), "loop": loop})

    def resume(self, path: str | Path) -> None:
        """Continue where the run that wrote the checkpoint was; from there on every bit is the same.

        Raises ``ValueError`` for a damaged checkpoint or one of another model, optimizer, data, seed or
        methods.
        """
        saved = load_checkpoint(path)
        loop = saved["loop"]
        ours = {"seed": self.seed, "grad_accumulation": self.grad_accumulation}
        for name, value in {**ours, "optimizer": type(self.optimizer).__name__}.items():
            if loop[name] != value:
                raise ValueError(f"{name}: the checkpoint at {path} has {loop[name]!r}, this trainer {value!r}")
        restore_model(self.model, saved["model"])
        self.methods.load_state_dict(saved["methods"])
        self.data.load_state_dict(loop["data"])
        restore_optimizer(self.optimizer, saved["optimizer"])
        set_global_state(loop["rng"], self.device)
        self.step = loop["step"]
