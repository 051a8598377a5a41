"""This package's bfloat16 weights as codecs: what `AdamW(master=…)` makes of a weight after each step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from narrowgauge.kernels._draws_torch import draws
from narrowgauge.optim.master import round_stochastically, split, with_residual

Float32Array = NDArray[np.float32]


@dataclass(frozen=True)
class Master:
    """master: "none", "sr" or "residual" (kernels/step_rules.MASTERS)."""

    master: str

    @property
    def name(self) -> str:
        """As the option is written."""
        return f'master="{self.master}"'

    @property
    def stochastic(self) -> bool:
        """Whether the seed matters."""
        return self.master != "none"

    def store_weight(self, w: Float32Array, seed: int = 0) -> tuple[Tensor, ...]:
        """The bfloat16 parameter, and its residual where there is one."""
        wide = torch.from_numpy(np.array(w, np.float32))
        if self.master == "none":
            return (wide.bfloat16(),)
        u = draws(wide.numel(), seed, 0, wide.device).view(wide.shape)
        return (round_stochastically(wide, u),) if self.master == "sr" else split(wide, u)

    def load_weight(self, state: tuple[Tensor, ...]) -> Any:
        """The weight as it reads back."""
        return with_residual(*state) if self.master == "residual" else state[0].float()


OURS = 'master="residual"'
MASTER_CODECS: Mapping[str, Master] = MappingProxyType(
    {codec.name: codec for codec in (Master("none"), Master("sr"), Master("residual"))}
)
