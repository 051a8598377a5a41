"""What may be done to an operand around its quantisation, stage by stage; each file defines one stage, in numpy."""

from __future__ import annotations

from narrowgauge.formats.stages.fallback import Fallback
from narrowgauge.formats.stages.gain import Gain
from narrowgauge.formats.stages.householder import Householder
from narrowgauge.formats.stages.outliers import Outliers
from narrowgauge.formats.stages.planes import Planes
from narrowgauge.formats.stages.rms import Rms
from narrowgauge.formats.stages.rotation import Rotation
from narrowgauge.formats.stages.shift import Shift
from narrowgauge.formats.stages.smooth import Smooth
from narrowgauge.formats.stages.squeeze import Squeeze
from narrowgauge.formats.stages.stage import Draw, Memo, Stage
from narrowgauge.formats.stages.top import Top

STAGES: tuple[type[Stage], ...] = (
    Rotation,
    Gain,
    Shift,
    Outliers,
    Squeeze,
    Smooth,
    Rms,
    Top,
    Householder,
    Fallback,
    Planes,
)
"""Every stage; an option of an operand's text belongs to the first whose `from_option` takes it."""

__all__ = [
    "STAGES",
    "Draw",
    "Fallback",
    "Gain",
    "Householder",
    "Memo",
    "Outliers",
    "Planes",
    "Rms",
    "Rotation",
    "Shift",
    "Smooth",
    "Squeeze",
    "Stage",
    "Top",
]
