"""Train in 8 bits and fewer, with numbers you can trust, on the machine you have.

Every public name is reachable from here and is loaded on first use: `import narrowgauge` alone imports
neither torch nor triton nor numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from narrowgauge._lazy import on_first_use
from narrowgauge._version import __version__ as __version__

if TYPE_CHECKING:
    from narrowgauge import bench, formats, kernels, methods, nn, numerics, optim, priors, train
    from narrowgauge.formats import Scheme
    from narrowgauge.kernels import QuantizedTensor, fake_quantize, quantize
    from narrowgauge.nn import QuantLinear, Recipe, compress_activations, convert, explain, export, load, revert

__all__ = [
    "QuantLinear",
    "QuantizedTensor",
    "Recipe",
    "Scheme",
    "bench",
    "compress_activations",
    "convert",
    "explain",
    "export",
    "fake_quantize",
    "formats",
    "kernels",
    "load",
    "methods",
    "nn",
    "numerics",
    "optim",
    "priors",
    "quantize",
    "revert",
    "train",
]

# The layer that defines each name; a public name that is not here is a layer itself.
_HOMES = {
    "Scheme": "formats",
    "QuantizedTensor": "kernels",
    "fake_quantize": "kernels",
    "quantize": "kernels",
    "QuantLinear": "nn",
    "Recipe": "nn",
    "compress_activations": "nn",
    "convert": "nn",
    "explain": "nn",
    "export": "nn",
    "load": "nn",
    "revert": "nn",
}

# Hidden from type checkers, which would otherwise believe that every name exists.
if not TYPE_CHECKING:
    __getattr__ = on_first_use(
        "narrowgauge", {name: f"narrowgauge.{_HOMES.get(name, name)}" for name in __all__}, __all__
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
