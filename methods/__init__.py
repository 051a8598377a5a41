"""Published training methods, a file each; importing them fills ``narrowgauge.train.METHODS``."""

from narrowgauge.methods.backslash import BackSlash as BackSlash
from narrowgauge.methods.ema import EMA as EMA
