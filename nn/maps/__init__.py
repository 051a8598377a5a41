"""Maps: what a recipe does to a weight or an input before it is quantised, each with a gradient of its own.

A map is a module, made for one layer; its text names it and its parameter: `dge5`. Each file defines one.
"""

from __future__ import annotations

from narrowgauge.nn.maps.bounded import Clip, Tanh
from narrowgauge.nn.maps.dge import DGE
from narrowgauge.nn.maps.learned_step import LearnedStep
from narrowgauge.nn.maps.map import Map
from narrowgauge.nn.maps.qema import QEma
from narrowgauge.nn.maps.trust import Trust

MAPS: tuple[type[Map], ...] = (Tanh, Clip, DGE, QEma, Trust, LearnedStep)
"""Every map; a text belongs to the first whose `from_text` takes it."""


def parse_map(text: str) -> Map:
    """A new map. ValueError for texts that mean none."""
    for kind in MAPS:
        made = kind.from_text(text)
        if made is not None:
            return made
    raise ValueError(f"map: unknown {text!r}; accepted: {', '.join(kind.EXAMPLE for kind in MAPS)}")


__all__ = ["MAPS", "Map", "parse_map"]
