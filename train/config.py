"""Sizes of the small Llama."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaConfig:
    """Sizes of a :class:`~narrowgauge.train.model.Llama`; ``ValueError`` for sizes that do not fit."""

    dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    ffn_dim: int
    max_seq_len: int
    vocab_size: int = 256
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    tie_embeddings: bool = False

    def __post_init__(self) -> None:
        for field in (
            "dim",
            "num_layers",
            "num_heads",
            "num_kv_heads",
            "ffn_dim",
            "max_seq_len",
            "vocab_size",
        ):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{field}: expected an integer of at least 1, got {value!r}")
        for field in ("rope_theta", "norm_eps"):
            value = getattr(self, field)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{field}: expected a finite number above 0, got {value!r}")
        if self.dim % self.num_heads or self.dim // self.num_heads % 2:
            raise ValueError(
                f"dim: expected num_heads={self.num_heads} times an even head width (rotary positions turn"
                f" pairs of channels), got {self.dim}"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_kv_heads: expected a divisor of num_heads={self.num_heads}, got {self.num_kv_heads}")

    @property
    def head_dim(self) -> int:
        """Channels of one head, D."""
        return self.dim // self.num_heads

    @staticmethod
    def preset_names() -> tuple[str, ...]:
        """Names that :meth:`preset` knows, smallest model first."""
        return tuple(_PRESETS)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "LlamaConfig":
        """A named size, with ``changes`` of its fields.

        Parameters of a :class:`~narrowgauge.train.model.Llama` with the byte vocabulary of 256: ``tiny`` 131,392;
        ``demo`` 853,120; ``small`` 4,852,992; ``medium`` 20,322,816; ``base`` 75,909,888; ``1b`` 973,670,400, which
        has the sizes of Llama-3.2-1B (with its vocabulary of 128,256 it has 1,235,814,400) and the context of 8,192
        that it was first trained with. Raises ``ValueError`` for an unknown name, ``TypeError`` for an unknown field.
        """
        if name not in _PRESETS:
            nearest = difflib.get_close_matches(name, _PRESETS, n=1) or list(_PRESETS)
            raise ValueError(
                f"preset: unknown name {name!r}; did you mean {nearest[0]!r}? known: {', '.join(_PRESETS)}"
            )
        return replace(_PRESETS[name], **changes)


def _preset(
    dim: int, num_layers: int, heads: tuple[int, int], ffn_dim: int, max_seq_len: int, **more: Any
) -> LlamaConfig:
    num_heads, num_kv_heads = heads
    return LlamaConfig(
        dim=dim,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        ffn_dim=ffn_dim,
        max_seq_len=max_seq_len,
        **more,
    )


# Widths are multiples of 32, and of 128 from "demo" on, so that every block-scaled format divides them.
_PRESETS: Mapping[str, LlamaConfig] = {
    "tiny": _preset(64, 2, (4, 2), 192, 128),
    "demo": _preset(128, 4, (4, 2), 384, 256),
    "small": _preset(256, 6, (8, 4), 768, 512),
    "medium": _preset(512, 6, (8, 4), 1664, 1024),
    "base": _preset(768, 12, (12, 4), 2048, 1024),
    "1b": _preset(2048, 16, (32, 8), 8192, 8192, rope_theta=500000.0, tie_embeddings=True),
}
