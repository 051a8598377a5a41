"""Tensors of .npy and .safetensors files by name; reading them never runs code."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

SUFFIXES = (".npy", ".safetensors")


def read_tensors(path: Path) -> dict[str, Any]:
    """Name → tensor of a .safetensors file, or the array of a .npy file under the empty name.

    ValueError for other suffixes, damaged files, and arrays of objects, which are pickles.
    """
    import numpy as np

    if path.suffix not in SUFFIXES:
        raise ValueError(f"file: got {str(path)!r}, accepted: {' and '.join(SUFFIXES)} files")
    if not path.is_file():
        raise FileNotFoundError(f"file: {path} does not exist")
    if path.suffix == ".npy":
        try:
            return {"": np.load(path, allow_pickle=False)}
        except (ValueError, EOFError) as error:
            raise ValueError(f"file: {path} is no .npy file of numbers: {error}") from error
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise ValueError(f"file: {path} is no safetensors file: {error}") from error


def pairs(actual: Path, reference: Path, only: str | None) -> tuple[dict[str, tuple[Any, Any]], list[str]]:
    """(name → (actual, reference) of all tensors that both files have, names that only one has). `only`: one of them.

    ValueError where nothing is in common. A .npy file, whose array has no name, goes with a file that has one tensor.
    """
    first, second = read_tensors(actual), read_tensors(reference)
    if only is not None:
        for path, tensors in ((actual, first), (reference, second)):
            if only not in tensors and "" not in tensors:
                near = get_close_matches(only, tensors, n=3, cutoff=0.4) or sorted(tensors)[:10]
                raise ValueError(f"tensor: {path} has no {only!r}; nearest: {', '.join(near)}")
        first, second = ({only: t[only] if only in t else t[""]} for t in (first, second))
    if "" in {*first, *second} and len(first) == len(second) == 1:
        name = max(*first, *second)
        return {name: (*first.values(), *second.values())}, []
    common = [name for name in first if name in second]
    if not common:
        raise ValueError(
            f"file: {actual} and {reference} have no tensor name in common; if only one of them has several, "
            "choose one of these with --tensor"
        )
    return {name: (first[name], second[name]) for name in common}, sorted(set(first) ^ set(second))
