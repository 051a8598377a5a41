"""Where `narrowgauge priors report` finds the tensors of a model: a file, a folder, a run, or a run's settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from narrowgauge.commands.train_config import merge, read_toml
from narrowgauge.commands.train_run import CHECKPOINT

if TYPE_CHECKING:
    from torch import Tensor

Named = tuple[str, "Tensor", tuple[int, ...]]
"""Name, values, and the shape of the whole tensor, of which the values may be rows."""


def named_tensors(path: str | Path, limit: int | None) -> tuple[int, Iterator[Named]]:
    """How many floating-point tensors the model at `path` has, and these one after the other.

    path: a .safetensors file, its index or a folder with one of them; the folder of a run of `narrowgauge train`, of
    which the checkpoint is taken; or a run's TOML settings, of which the model before training is taken. limit: at most
    so many elements of each tensor, whole rows of it (None: all). ValueError for others.
    """
    path = Path(path)
    if path.suffix == ".toml":
        return _from_settings(path)
    import torch

    from narrowgauge.numerics.tensors.sources import from_checkpoint

    if (path / CHECKPOINT).is_dir():
        path = path / CHECKPOINT
    source = from_checkpoint(path, filter_fn=lambda info: True, limit=limit)
    tensors = ((t.info.name, torch.from_numpy(t.values), t.info.shape) for t in source)
    return len(source), tensors


def _from_settings(path: Path) -> tuple[int, Iterator[Named]]:
    from narrowgauge.commands.train_run import model_sizes
    from narrowgauge.train import Llama

    config = merge(read_toml(path), {})
    model = Llama(model_sizes(config), seed=config.seed)
    named = [(name, p.detach(), tuple(p.shape)) for name, p in model.named_parameters()]
    return len(named), iter(named)
