"""Train in 8 bits and fewer, with numbers you can trust, on the machine you have.

Every public name is reachable from here and is loaded on first use: `import narrowgauge` alone imports
neither torch nor triton nor numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from narrowgauge import bench, formats, kernels, methods, nn, numerics, optim, priors, train
    from narrowgauge.formats import Scheme
    from narrowgauge.kernels import QuantizedTensor, fake_quantize, quantize
    from narrowgauge.nn import QuantLinear, Recipe, convert, explain, revert

__version__ = "0.1.0"

__all__ = [
    "QuantLinear",
    "QuantizedTensor",
    "Recipe",
    "Scheme",
    "bench",
    "convert",
    "explain",
    "fake_quantize",
    "formats",
    "kernels",
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
    "convert": "nn",
    "explain": "nn",
    "revert": "nn",
}

# Hidden from type checkers, which would otherwise believe that every name exists.
if not TYPE_CHECKING:

    def __getattr__(name):
        """Load a public name; an unknown one is an AttributeError that says which is nearest."""
        if name not in __all__:
            from difflib import get_close_matches

            nearest = get_close_matches(name, __all__, n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"it has {', '.join(__all__)}"
            raise AttributeError(f"module 'narrowgauge' has no attribute {name!r}; {hint}")
        home = import_module(f"narrowgauge.{_HOMES.get(name, name)}")
        value = getattr(home, name) if name in _HOMES else home
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
