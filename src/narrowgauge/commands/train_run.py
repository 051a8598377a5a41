"""The run behind `narrowgauge train`: from settings to a trainer, and what is left in the run's folder."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch
import torch.distributed as dist

from narrowgauge.atomic_files import replacing
from narrowgauge.commands.output import note
from narrowgauge.commands.run_folder import CONFIG, METRICS, read_run
from narrowgauge.commands.train_data import make_corpus, make_tokenizer
from narrowgauge.commands.train_methods import make_method
from narrowgauge.commands.train_methods import on_grid as on_grid
from narrowgauge.commands.train_resume import CHECKPOINT as CHECKPOINT
from narrowgauge.commands.train_resume import changes, checkpoint_to_resume, set_aside, settings_to_keep
from narrowgauge.commands.train_settings import TrainConfig
from narrowgauge.commands.train_toml import to_toml
from narrowgauge.nn import convert, get_recipe
from narrowgauge.optim import AdamW
from narrowgauge.strict_json import dumps
from narrowgauge.train import BatchStream, ConsoleLogger, JsonlLogger, Llama, LlamaConfig, Logger, Trainer, WarmupCosine
from narrowgauge.train.distributed import is_first, join
from narrowgauge.train.early_stopping import EarlyStopping
from narrowgauge.train.loggers import CsvLogger, TensorBoardLogger
from narrowgauge.train.method import Metrics

BETAS = (0.9, 0.95)
BYTE_VOCABULARY = 256
SETTINGS, CURVES = "config.toml", "curves.png"


@dataclass(frozen=True)
class Trained:
    """metrics: the last of the run. steps: how many are done. stopped: whether early stopping has ended it."""

    metrics: Metrics
    steps: int
    stopped: bool


def default_device(name: str | None = None) -> torch.device:
    """The device called `name`; without one, CUDA where torch sees a device, else the CPU. ValueError for others."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device: got {name!r}, accepted: cpu, cuda, cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: got {name!r}, but torch sees no CUDA device here; accepted: cpu")
    return device


def join_processes(config: TrainConfig) -> bool:
    """Joins the processes of a torchrun; whether this one prints and writes.

    Raises ValueError where torchrun has started several that would train beside each other.
    """
    if config.parallel is not None:
        join()
    elif dist.is_available() and dist.is_torchelastic_launched() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("parallel: torchrun started several processes; give --parallel ddp or fsdp2")
    return is_first()


def model_sizes(config: TrainConfig, vocab_size: int = BYTE_VOCABULARY) -> LlamaConfig:
    """The sizes of the model: its preset, the changes to it, and a context of seq_len at least."""
    changed = {name: value for name, value in dataclasses.asdict(config.sizes).items() if value is not None}
    sizes = LlamaConfig.preset(config.model, **changed)
    return dataclasses.replace(sizes, vocab_size=vocab_size, max_seq_len=max(sizes.max_seq_len, config.seq_len))


def make_loggers(config: TrainConfig) -> list[Logger]:
    """The loggers that the configuration names, in its order; ValueError where one is not installed."""
    makers: dict[str, Callable[[], Logger]] = {
        "console": lambda: ConsoleLogger(config.recipe, every=config.log_every),
        "jsonl": lambda: JsonlLogger(config.folder / METRICS),
        "csv": lambda: CsvLogger(config.folder / "metrics.csv"),
        "tensorboard": lambda: TensorBoardLogger(config.folder / "tensorboard"),
    }
    try:
        return [makers[name]() for name in config.loggers]
    except ImportError as error:
        raise ValueError(f"loggers: {error}") from error


def build_trainer(config: TrainConfig) -> Trainer:
    """The trainer of a configuration; ValueError for settings that do not fit together."""
    recipe = get_recipe(config.recipe)
    tokenizer = make_tokenizer(config.tokenizer)
    sizes = model_sizes(config, BYTE_VOCABULARY if tokenizer is None else tokenizer.vocab_size)
    data = BatchStream(
        make_corpus(config, tokenizer),
        batch_size=config.batch_size,
        seq_len=config.seq_len,
        seed=config.seed,
        validation_batches=config.validation_batches,
    )
    stopping = config.early_stopping
    ratio = 1.0 if config.schedule == "constant" else config.final_ratio
    return Trainer(
        convert(Llama(sizes, seed=config.seed), recipe),
        data,
        lambda groups: AdamW(
            groups, lr=config.lr, betas=BETAS, weight_decay=config.weight_decay, state=config.state, seed=config.seed
        ),
        schedule=WarmupCosine(config.lr, config.steps, min(config.warmup, config.steps), ratio),
        methods=[*on_grid(recipe, config.seed), *(make_method(text) for text in config.methods)],
        grad_accumulation=config.grad_accumulation,
        clip_norm=config.clip_norm or None,
        eval_every=config.eval_every,
        early_stopping=EarlyStopping(**dataclasses.asdict(stopping)) if stopping.patience else None,
        save_every=config.save_every,
        save_path=config.folder / CHECKPOINT if config.save_every else None,
        keep=config.keep,
        logger=make_loggers(config),
        seed=config.seed,
        device=default_device(config.device),
        dtype=config.dtype,
        compile=config.compile,
        parallel=config.parallel,
    )


def train(config: TrainConfig, *, resume: str | None = None) -> Trained:
    """Trains to the end, and leaves config.toml, config.json, metrics, checkpoints and curves in the run's folder.

    resume: see :func:`~narrowgauge.commands.train_resume.checkpoint_to_resume`.
    """
    found = checkpoint_to_resume(config, resume)
    trainer = build_trainer(config)
    settings = settings_to_keep(config)
    if found is not None:
        trainer.resume(found.path)
    if trainer.processes.first:
        if resume is not None:
            note(f"resumed at {found}" if found else f"{config.folder} holds no checkpoint: the run begins")
        if found is not None:
            for path in set_aside(found):
                note(f"kept, though damaged: {path}")
            for line in changes(config, settings):
                note(line)
        _write(config, settings)
    metrics = trainer.fit(config.steps) or trainer.evaluate()  # nothing was left to do
    if trainer.processes.first and config.plot:
        draw_curves(config)
    return Trained(metrics, trainer.step, trainer.stopped)


def _write(config: TrainConfig, settings: dict[str, object]) -> None:
    again = f"# To train the same again: narrowgauge train {config.folder / SETTINGS} --out ANOTHER_FOLDER\n"
    for name, text in ((SETTINGS, again + to_toml(config.placed)), (CONFIG, dumps(settings) + "\n")):
        with replacing(config.folder / name) as partial:
            partial.write_text(text, encoding="utf-8")


def draw_curves(config: TrainConfig) -> None:
    """The run's metrics as curves.png in its folder; a note says so where it cannot be drawn."""
    if find_spec("matplotlib") is None:
        note("no curves are drawn: matplotlib is not installed (pip install 'narrowgauge[plots]')")
        return
    if "jsonl" not in config.loggers:
        note(f"no curves are drawn: the run has no {METRICS} (--loggers jsonl)")
        return
    from narrowgauge.commands.runs_plot import plot_runs

    run = read_run(config.folder)
    losses = [name for name in run.metrics if name.endswith("val_loss")]
    shown = [name for name in ("loss", *losses, "grad_norm", "lr") if name in run.metrics]
    if shown:
        plot_runs({run.name: run}, shown, config.folder / CURVES)
