"""`import narrowgauge` is quick, complete, and helpful about a name that it does not have."""

from __future__ import annotations

import subprocess
import sys

import pytest

import narrowgauge


def loaded_by(statement: str, *modules: str) -> list[str]:
    """Which of `modules` a fresh interpreter has loaded after `statement`."""
    code = f"{statement}\nimport sys\nprint(*(m for m in {modules!r} if m in sys.modules))"
    # The interpreter finds the package as this one did, installed or not.
    paths = [path for path in sys.path if path]
    code = f"import sys\nsys.path[:0] = {paths!r}\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_import_of_the_package_loads_nothing_heavy():
    heavy = ("torch", "triton", "numpy", "scipy", "rich", "matplotlib")
    assert loaded_by("import narrowgauge", *heavy) == []


def test_formats_need_neither_torch_nor_triton():
    assert loaded_by("import narrowgauge.formats", "torch", "triton", "numpy") == ["numpy"]


def test_a_name_loads_its_own_layer_and_none_above():
    statement = "import narrowgauge\nassert narrowgauge.Scheme"
    layers = ("narrowgauge.formats", "narrowgauge.kernels", "narrowgauge.nn", "torch")
    assert loaded_by(statement, *layers) == ["narrowgauge.formats"]


@pytest.mark.parametrize("name", narrowgauge.__all__)
def test_every_public_name_resolves(name):
    assert getattr(narrowgauge, name) is not None


def test_public_names_are_sorted_listed_and_unique():
    assert narrowgauge.__all__ == sorted(set(narrowgauge.__all__))
    assert set(narrowgauge.__all__) <= set(dir(narrowgauge))


def test_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(AttributeError, match=r"no attribute 'quantise'; did you mean 'quantize'\?"):
        _ = narrowgauge.quantise


def test_unknown_name_near_nothing_lists_what_there_is():
    with pytest.raises(AttributeError, match=r"no attribute 'xyzzy'; it has QuantLinear, .*train"):
        _ = narrowgauge.xyzzy
