"""Two 4-bit codebooks of optimizers and weights that are not number systems: `bnb_fp4` and `power1_4bit`.

`bnb_fp4` is the FP4 of bitsandbytes (csrc/kernels.cu, `dDequantizeFP4Tree`): sign bit 0x8 and the magnitudes 0, 1/16,
8, 12, 4, 6, 2, 3 over 12, as the float32 constants of that file. It is neither OCP's E2M1 (smallest magnitude 1/2 of
6) nor what bitsandbytes' own map generator gives (1/8 of 6). Its encoder compares with decimal thresholds, some of
which (0.583333, 0.00260417) miss the midpoint by several float32 steps, and keeps a tie at the smaller magnitude; here
encoding is to nearest, exactly.

`power1_4bit` is the map of 4-bit optimizers for the second moment (Li et al., arXiv 2309.01507), i / 16 for
i = 1 … 16: linear, and without a zero, because a zero in the denominator of Adam's update would blow it up.
"""

from __future__ import annotations

import numpy as np

from narrowgauge.formats.codebook import CodebookFormat
from narrowgauge.formats.registry import register

BNB_FP4_MAGNITUDES = tuple(
    float(np.float32(value)) for value in (0.0, 5.208333333e-03, 0.66666667, 1.0, 0.33333333, 0.5, 0.16666667, 0.25)
)
"""Worth of the codes 0 … 7; 8 … 15 are their negatives, code 8 is -0."""

register(CodebookFormat(name="bnb_fp4", table=BNB_FP4_MAGNITUDES + tuple(-value for value in BNB_FP4_MAGNITUDES)))
register(CodebookFormat(name="power1_4bit", table=tuple(i / 16 for i in range(1, 17))))
