"""The training loop."""

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from narrowgauge.train.amp import AmpDtype, amp_dtype, autocast
from narrowgauge.train.checkpoint import load_checkpoint, save_checkpoint
from narrowgauge.train.checks import check_settings
from narrowgauge.train.compose import MethodStack
from narrowgauge.train.data import Batch, BatchSource
from narrowgauge.train.distributed import Processes
from narrowgauge.train.early_stopping import EarlyStopping
from narrowgauge.train.gradients import accumulate, finite_loss_and_norm
from narrowgauge.train.loggers import Logger, Loggers
from narrowgauge.train.loss import cross_entropy
from narrowgauge.train.memory import memory_bytes
from narrowgauge.train.method import Method, Metrics
from narrowgauge.train.monitor import MonitorChoice, MonitorLogger, as_monitor, watched
from narrowgauge.train.optimizers import OptimizerFactory, build_optimizer, set_learning_rate
from narrowgauge.train.rng import derive_seed, isolated
from narrowgauge.train.run_state import restore_run, run_state
from narrowgauge.train.schedule import Schedule
from narrowgauge.train.validation import validation_loss


class Trainer:
    """Trains ``model`` on ``data`` with ``optimizer``; the same bits for the same ``seed``, resumed or not.

    ``optimizer`` is an optimizer of the model's trainable parameters, or a function that builds one from parameter
    groups (needed when a method changes the parameters or their groups, and in shards). ``schedule`` maps step →
    learning rate; ``None`` keeps each group's own. ``grad_accumulation`` micro-batches make one step, each weighted by
    its labelled tokens, so that the gradient is that of one large batch. Gradients are clipped to the global norm
    ``clip_norm`` (``None``: not). Every ``eval_every`` steps, and after the last, the model is evaluated (0: never);
    ``early_stopping`` may then end the run. Every ``save_every`` steps, and after the last, a checkpoint is written to
    ``save_path`` (``None``: never); the ``keep - 1`` before it stay beside it. ``monitor`` (``True``, schemes, or a
    ``TensorMonitor``) measures now and then what formats would do to weights, activations and gradients; the run's
    numbers stay what they are. Its summaries go to the loggers, everything is in ``trainer.monitor.rows`` and
    ``trainer.monitor.report()``. ``dtype="bfloat16"`` computes the forward's matrix products in it
    (:mod:`narrowgauge.train.amp`); ``compile`` compiles the model in place, names stay. ``parallel="ddp"`` or
    ``"fsdp2"`` is one run in all processes of a torchrun (:mod:`narrowgauge.train.distributed`).

    ``model``, ``optimizer``, ``data``, ``step`` are what is trained now; ``name_map`` has the old → new names of
    parameters that a method's surgery renamed.

    Every step seeds torch's generators from (``seed``, step) and puts them back afterwards, so neither evaluation nor
    logging nor the caller's own draws change the run. Raises ``ValueError``/``TypeError`` for arguments that do not
    fit together.
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
        early_stopping: EarlyStopping | None = None,
        save_every: int = 0,
        save_path: str | Path | None = None,
        keep: int = 2,
        logger: Logger | Sequence[Logger] | None = None,
        monitor: MonitorChoice = None,
        seed: int = 0,
        device: torch.device | str | None = None,
        dtype: AmpDtype = None,
        compile: bool = False,
        parallel: str | None = None,
    ) -> None:
        check_settings(
            data, grad_accumulation=grad_accumulation, clip_norm=clip_norm, eval_every=eval_every,
            save_every=save_every, save_path=save_path, keep=keep, stops_early=early_stopping is not None,
            monitored=bool(monitor), parallel=parallel,
        )  # fmt: skip
        self.dtype, self.processes, self.methods = amp_dtype(dtype), Processes(parallel), MethodStack(methods)
        changed, self.name_map = self.methods.surgery(model)
        self.model = self.processes.place(changed, device)
        self.device = self.processes.device
        self.optimizer = build_optimizer(optimizer, self.model, self.methods)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.data = self.methods.source(data)
        self.schedule, self.grad_accumulation, self.clip_norm = schedule, grad_accumulation, clip_norm
        self.eval_every, self.early_stopping = eval_every, early_stopping
        self.save_every, self.save_path, self.keep = save_every, save_path, keep
        self.monitor = as_monitor(monitor, self.model)
        loggers = (logger,) if isinstance(logger, Logger) else tuple(logger or ())
        all_loggers = Loggers(*loggers, *(() if self.monitor is None else (MonitorLogger(self.monitor),)))
        self.logger = all_loggers if self.processes.first else Loggers()
        self.seed, self.step = seed, 0
        if compile:
            self.model.compile()
        self.methods.attach(self.model)
        self.forward = self.processes.wrap(self.model)

    @property
    def stopped(self) -> bool:
        """Whether early stopping has ended the run."""
        return self.early_stopping is not None and self.early_stopping.stopped

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
            while self.step < steps and not self.stopped:
                with watched(self.monitor, self.step) as seen:
                    metrics = self._train_step()
                metrics |= seen
                if self._is_due(self.eval_every, steps):
                    metrics |= self.evaluate()
                    if self.early_stopping is not None and self.step % self.eval_every == 0:
                        self.early_stopping.observe(self.step, metrics)
                self.logger.log(self.step, metrics)
                if self.save_path is not None and (self.stopped or self._is_due(self.save_every, steps)):
                    self.save(self.save_path)
        finally:
            self.logger.stop()
        return metrics

    def _is_due(self, every: int, steps: int) -> bool:
        return every > 0 and (self.step % every == 0 or self.step == steps)

    def _train_step(self) -> Metrics:
        start, step = time.perf_counter(), self.step
        self.model.train()
        rate = None if self.schedule is None else self.schedule(step)
        lr = set_learning_rate(self.optimizer, rate, self.methods.lr_factor(step), self.methods.lr_scales(step))
        micro_batches = [
            self.methods.transform(next(self.data), step, self.seed, index) for index in range(self.grad_accumulation)
        ]
        self.optimizer.zero_grad(set_to_none=True)
        with isolated(self.device, derive_seed(self.seed, step)):
            self.methods.begin_step(self.model, step)
            with self.processes.own_draws(self.seed, step):
                mean_loss, metrics = accumulate(self._loss, micro_batches, self.processes)
            self.methods.gradient(self.model, step)
            loss, norm = finite_loss_and_norm(self.parameters, mean_loss, self.clip_norm, step)
            old = self.methods.old_values(self.model)
            self.optimizer.step()
            self.methods.post_step(self.model, step, old)
        self.step += 1
        seconds = time.perf_counter() - start
        tokens = sum(batch["labels"].numel() for batch in micro_batches)
        metrics |= {"loss": loss, "lr": lr, "grad_norm": norm}
        metrics |= {"tokens_per_s": tokens / seconds, "step_ms": seconds * 1e3}
        memory = memory_bytes(self.device)
        return metrics if memory is None else metrics | {"memory_bytes": memory}

    def _loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        with autocast(self.dtype, self.device):
            return self.methods.loss(self.forward, self._to_device(batch))

    def _to_device(self, batch: Batch) -> Batch:
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}

    def evaluate(self) -> Metrics:
        """``val_loss``, the cross-entropy in nats per token of the validation batches; methods' metrics."""
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad(), isolated(self.device, derive_seed(self.seed, "evaluate")):
                metrics = self._validate(self.model) | self.methods.evaluate(self.model, self._validate)
        finally:
            self.model.train(was_training)
        return self.processes.agree(metrics)

    def _validate(self, model: nn.Module) -> Metrics:
        return validation_loss(self._validation_loss, model, self.data.validation(), self.processes)

    def _validation_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        with autocast(self.dtype, self.device):
            return cross_entropy(model, self._to_device(batch))

    def save(self, path: str | Path) -> None:
        """Write a checkpoint folder (see :mod:`narrowgauge.train.checkpoint`), atomically; all processes call it."""
        state = run_state(self)
        self.processes.first_does(lambda: save_checkpoint(path, state, keep=self.keep))

    def resume(self, path: str | Path) -> None:
        """Continue where the run that wrote the checkpoint was; from there on every bit is the same.

        Raises ``ValueError`` for a damaged checkpoint or one of another model, optimizer, data, seed or
        methods.
        """
        restore_run(self, load_checkpoint(path), path)
