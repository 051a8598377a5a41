"""`narrowgauge bench optim --quality`: codecs of optimizer states side by side, ours and other people's."""

from __future__ import annotations

from narrowgauge.bench.optim_quality.run import run_quality
from narrowgauge.bench.optim_quality.table import QualityResult

__all__ = ["QualityResult", "run_quality"]
