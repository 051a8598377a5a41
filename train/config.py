"""Sizes of the small Llama."""

import difflib
import math
from dataclasses import dataclass

# Widths are multiples of 32, and of 128 from "demo" on, so that every block-scaled format divides them.
_PRESETS = {  # dim, num_layers, num_heads, num_kv_heads, ffn_dim, max_seq_len
    "tiny": (64, 2, 4, 2, 192, 128),
    "demo": (128, 4, 4, 2, 384, 256),
    "small": (256, 6, 8, 4, 768, 512),
    "base": (768, 12, 12, 4, 2048, 1024),
}


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
    def preset(cls, name: str) -> "LlamaConfig":
        """A named size: ``tiny`` 0.13 M, ``demo`` 0.85 M, ``small`` 4.9 M, ``base`` 76 M parameters.

        Vary one with :func:`dataclasses.replace`. Raises ``ValueError`` for an unknown name.
        """
        if name not in _PRESETS:
            nearest = difflib.get_close_matches(name, _PRESETS, n=1) or list(_PRESETS)
            raise ValueError(
                f"preset: unknown name {name!r}; did you mean {nearest[0]!r}? known: {', '.join(_PRESETS)}"
            )
        dim, num_layers, num_heads, num_kv_heads, ffn_dim, max_seq_len = _PRESETS[name]
        return cls(
            dim=dim,
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            ffn_dim=ffn_dim,
            max_seq_len=max_seq_len,
        )
