"""One training run of the suite `recipes`: a Llama whose linear layers follow one recipe, under AdamW in float32."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from narrowgauge.bench.training_run import (
    BASELINE,
    PERTURBED,
    Trained,
    TrainingSettings,
    finish,
    fit,
    initial_model,
    stream,
)
from narrowgauge.nn import Recipe, convert, probe_operands
from narrowgauge.strict_json import dumps
from narrowgauge.train import ByteCorpus, Logger, OnGrid, cross_entropy
from narrowgauge.train.method import ParameterGroup

BF16 = "bf16"
MOVED = "fp32-moved"
"""fp32 from initial weights that are about as far away as eight bits would put them: chance, once it is kicked."""
CHANCE = (PERTURBED, MOVED)
_WORDS = ("name", "source", "advice", "caveat")


@dataclass(frozen=True, kw_only=True)
class RecipeSettings(TrainingSettings):
    """A model and a course of training that learn clearly in half a minute on one core, with little left to chance.

    displacement: by which share of themselves the initial weights of `fp32-moved` are moved.
    """

    dim: int = 128
    num_layers: int = 3
    num_heads: int = 4
    num_kv_heads: int = 2
    ffn_dim: int = 384
    seq_len: int = 128
    batch_size: int = 4
    steps: int = 300
    lr: float = 6e-4
    beta2: float = 0.95
    displacement: float = 1e-2
    evaluations: int = 4
    curve_batches: int = 8
    final_windows: int = 256


@dataclass(frozen=True)
class RecipeRun:
    """Which run. definition: what the recipe says, as JSON text, so that a result under another one is not taken for
    it; "" for baselines."""

    seed: int
    recipe: str
    definition: str = ""

    @property
    def name(self) -> str:
        """Of its folder."""
        digest = hashlib.sha256(f"{self.recipe}\n{self.definition}".encode()).hexdigest()[:8]
        return f"seed{self.seed}-{_filename(self.recipe)}-{digest}"

    def __str__(self) -> str:
        return f"seed {self.seed}, {self.recipe}"


@dataclass(frozen=True, kw_only=True)
class RecipeResult(Trained):
    """A finished run. sqnr_db: quantised slot → signal-to-noise ratio of its operands in the trained model on the first
    batch, in dB, mean over the layers; empty where nothing is quantised or the run diverged."""

    run: RecipeRun
    sqnr_db: Mapping[str, float]


def _filename(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name)[:60]


def definition(recipe: Recipe | None) -> str:
    """What a recipe says, without its words, as one line of JSON; "" for none."""
    if recipe is None:
        return ""
    said = {name: value for name, value in recipe.to_dict().items() if name not in _WORDS}
    return " ".join(dumps(said).split())


class Bf16Autocast(nn.Module):
    """A model under `torch.autocast` in bfloat16."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        """What the model gives."""
        with torch.autocast(input_ids.device.type, torch.bfloat16):
            out: Tensor = self.model(input_ids)
        return out


def make_model(run: RecipeRun, settings: RecipeSettings, recipe: Recipe | None) -> nn.Module:
    """The initial model of a run: the same weights for all of a seed, some beside them for the twins of fp32.

    recipe: that of the run; None for the baselines, of which `bf16` is autocast.
    """
    moved = {PERTURBED: settings.perturbation, MOVED: settings.displacement}.get(run.recipe, 0.0)
    model = initial_model(run.seed, settings, moved)
    if recipe is not None:
        return convert(model, recipe)
    if run.recipe not in (BASELINE, BF16, *CHANCE):
        raise ValueError(f"recipe: {run.recipe!r} is none of the baselines, and no recipe was given")
    return Bf16Autocast(model) if run.recipe == BF16 else model


def train_run(
    run: RecipeRun,
    settings: RecipeSettings,
    corpus: ByteCorpus,
    folder: Path,
    *,
    recipe: Recipe | None,
    save_every: int,
    logger: Logger | None = None,
) -> RecipeResult:
    """Trains from the folder's checkpoint, or from the start, to the end, and writes the result."""

    def optimizer(groups: list[ParameterGroup]) -> torch.optim.Optimizer:
        betas = (settings.beta1, settings.beta2)
        return torch.optim.AdamW(
            groups, lr=settings.lr, betas=betas, eps=settings.eps, weight_decay=settings.weight_decay, fused=True
        )

    model = make_model(run, settings, recipe)
    methods = [OnGrid(seed=run.seed)] if recipe is not None and recipe.update is not None else []
    trainer, outcome = fit(
        model, optimizer, run.seed, settings, corpus, folder, save_every=save_every, methods=methods, logger=logger
    )
    sqnr = {} if outcome.final_loss is None else operand_sqnr(trainer.model, run.seed, settings, corpus)
    return finish(folder, RecipeResult(**vars(outcome), run=run, sqnr_db=sqnr))


def operand_sqnr(model: nn.Module, seed: int, settings: TrainingSettings, corpus: ByteCorpus) -> dict[str, float]:
    """Quantised slot → signal-to-noise ratio in dB on the first batch, mean over the layers."""
    batch = {name: tensor.to(settings.device) for name, tensor in next(stream(seed, settings, corpus)).items()}
    with probe_operands(model) as probe:
        cross_entropy(model, batch).backward()
    return {slot: seen["mean"] for slot, seen in probe.sqnr().items()}
