"""Public names that are loaded on first use, so that importing a package alone costs next to nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def on_first_use(package: str, homes: Mapping[str, str], names: Sequence[str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package. homes: public name → module that defines it, or, for a name that is a submodule,
    that one. names: all public names, for the text of the AttributeError, which says which is nearest."""

    def load(name: str) -> Any:
        if name not in homes:
            from difflib import get_close_matches

            nearest = get_close_matches(name, names, n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"it has {', '.join(names)}"
            raise AttributeError(f"module {package!r} has no attribute {name!r}; {hint}")
        module = import_module(homes[name])
        value = module if homes[name] == f"{package}.{name}" else getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    return load
