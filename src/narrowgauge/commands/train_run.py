"""The run behind `narrowgauge train`: from settings to a trainer."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import torch

import narrowgauge.methods  # noqa: F401 - importing it fills the register of methods
from narrowgauge.commands.output import note
from narrowgauge.commands.train_config import TrainConfig, parse_method
from narrowgauge.nn import Recipe, convert, get_recipe
from narrowgauge.optim import AdamW
from narrowgauge.strict_json import dumps
from narrowgauge.train import (
    BatchStream,
    ByteCorpus,
    ConsoleLogger,
    JsonlLogger,
    Llama,
    LlamaConfig,
    OnGrid,
    Trainer,
    WarmupCosine,
    get_method,
)
from narrowgauge.train.method import Method, Metrics

BETAS = (0.9, 0.95)
CHECKPOINT = "checkpoint"


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


def make_method(text: str) -> Method:
    """The method of `NAME:key=value,…`; ValueError for unknown names and for settings that it does not have."""
    name, settings = parse_method(text)
    cls = get_method(name)
    try:
        return cls(**settings)
    except TypeError as error:
        raise ValueError(f"method: {name} does not take these settings: {settings} ({error})") from error


def on_grid(recipe: Recipe, seed: int) -> list[Method]:
    """What keeps the weights of a recipe without a float master on their grid."""
    return [] if recipe.update is None else [OnGrid(seed=seed)]


def build_trainer(config: TrainConfig) -> Trainer:
    """The trainer of a configuration; ValueError for settings that do not fit together."""
    recipe = get_recipe(config.recipe)
    sizes = LlamaConfig.preset(config.model)
    corpus = ByteCorpus(config.data)
    data = BatchStream(corpus, batch_size=config.batch_size, seq_len=config.seq_len, seed=config.seed)
    sizes = dataclasses.replace(sizes, max_seq_len=max(sizes.max_seq_len, config.seq_len))
    model = convert(Llama(sizes, seed=config.seed), recipe)
    return Trainer(
        model,
        data,
        lambda groups: AdamW(
            groups, lr=config.lr, betas=BETAS, weight_decay=config.weight_decay, state=config.state, seed=config.seed
        ),
        schedule=WarmupCosine(config.lr, config.steps, min(config.warmup, config.steps)),
        methods=[*on_grid(recipe, config.seed), *(make_method(text) for text in config.methods)],
        eval_every=config.eval_every,
        save_every=config.save_every,
        save_path=config.folder / CHECKPOINT if config.save_every else None,
        logger=[ConsoleLogger(config.recipe), JsonlLogger(config.folder / "metrics.jsonl")],
        seed=config.seed,
        device=default_device(config.device),
    )


def _settings(config: TrainConfig) -> dict[str, Any]:
    """What the folder keeps: the configuration, and the recipe in full, because a file may change."""
    return {**dataclasses.asdict(config), "recipe_settings": get_recipe(config.recipe).to_dict()}


def _changes(config: TrainConfig, settings: dict[str, Any]) -> list[str]:
    """A line for each setting that the run had otherwise before: what follows is another training."""
    path = config.folder / "config.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    now = json.loads(dumps(settings))
    return [f"resumed with another {name}: {value}; before: {before[name]}"
            for name, value in now.items() if name in before and before[name] != value and name != "out"]  # fmt: skip


def train(config: TrainConfig, *, resume: bool = False) -> Metrics:
    """Trains to the end and returns the last metrics. A folder that holds a run is continued or left alone:
    ValueError if it has a checkpoint and `resume` is False, or has none and it is True."""
    has_run = (config.folder / CHECKPOINT).exists() or (config.folder / f"{CHECKPOINT}.previous").exists()
    if has_run and not resume:
        raise ValueError(f"out: {config.folder} holds a run; continue it with --resume, or give another --out")
    if resume and not has_run:
        raise ValueError(f"resume: {config.folder} holds no checkpoint; leave --resume out to start one")
    trainer = build_trainer(config)
    config.folder.mkdir(parents=True, exist_ok=True)
    settings = _settings(config)
    if resume:
        trainer.resume(config.folder / CHECKPOINT)
        for line in _changes(config, settings):
            note(line)
    (config.folder / "config.json").write_text(dumps(settings) + "\n", encoding="utf-8")
    return trainer.fit(config.steps) or trainer.evaluate()  # nothing was left to do
