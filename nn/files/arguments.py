"""Checks of what `export`, `load` and their like are given, and how their messages name classes."""

from __future__ import annotations

from pathlib import Path

from torch import nn


def checked_path(path: object) -> Path:
    """The absolute path. TypeError for what is no path, ValueError for a folder."""
    if isinstance(path, nn.Module):
        raise TypeError(
            f"path: expected a string or a Path, got the module {type(path).__name__}; the model comes first"
        )
    if not isinstance(path, str | Path):
        raise TypeError(f"path: expected a string or a Path, got {type(path).__name__}")
    file = Path(path).absolute()
    if file.is_dir():
        raise ValueError(f"path: {file} is a folder, accepted: the path of a file")
    return file


def check_model(model: object) -> None:
    """TypeError for what is no module."""
    if isinstance(model, str | Path):
        raise TypeError(f"model: expected a torch.nn.Module, got the path {str(model)!r}; the model comes first")
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")


def named(cls: str | type) -> str:
    """The name of a class with its article: "an InferenceLinear", "a QuantLinear"."""
    name = cls if isinstance(cls, str) else cls.__name__
    return f"an {name}" if name[:1] in "AEIO" else f"a {name}"
