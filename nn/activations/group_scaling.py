"""Group Scaling (COAT, arXiv 2410.19313, section 4.2): a per-tensor scale without a second pass over the tensor.

Stage 1, with the operation that produces y [R, K]: the maximum of every 1xG slice, amax [R, ⌈K/G⌉], while the slice is
in the cache. Stage 2: the maximum of those, G times fewer. Stage 3: scale and encode. The result has the bits of
`quantize`, which looks for the maximum on its own, because a maximum of maxima is exact.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from narrowgauge.formats import BlockFormat, parse
from narrowgauge.kernels._quantize_torch import quantize_by_amax
from narrowgauge.kernels.layout import layout_of
from narrowgauge.kernels.tiles import group_amax
from narrowgauge.nn.activations.parts import Parts

GROUP = 128
BLOCK_ELEMENTS = 1 << 18
"""Elements of one block on a CPU: 1 MiB of float32, which a core's cache holds."""


def evaluate_with_amax(
    function: Callable[..., Tensor], *activations: Tensor, group: int = GROUP
) -> tuple[Tensor, Tensor]:
    """(y, amax): y = function(*activations) with activations [..., K] and y [..., K], and the float32 maxima
    [rows, ⌈K/group⌉] of its slices. `function` must treat every row by itself: on a CPU it gets blocks of rows, on
    other devices all of them. ValueError for a group below 1."""
    if group < 1:
        raise ValueError(f"group: expected at least 1, got {group}")
    shape = activations[0].shape
    matrices = [x.reshape(-1, shape[-1]) for x in activations]
    rows = matrices[0].shape[0]
    step = max(1, BLOCK_ELEMENTS // max(shape[-1], 1)) if activations[0].device.type == "cpu" else max(rows, 1)
    blocks, maxima = [], []
    for start in range(0, max(rows, 1), step):
        block = function(*(x[start : start + step] for x in matrices))
        blocks.append(block)
        maxima.append(group_amax(block, (1, group), None if torch.compiler.is_compiling() else step))
    y = blocks[0] if len(blocks) == 1 else torch.cat(blocks)
    return y.reshape(shape), maxima[0] if len(maxima) == 1 else torch.cat(maxima)


def takes_amax(scheme: str) -> bool:
    """Whether `quantize_with_amax` serves the scheme: one scale for the tensor, which follows from its maximum."""
    spec = parse(scheme)
    simple = not isinstance(spec.format, BlockFormat) and spec.tile == (None, None)
    derived = not spec.rule.searches and spec.static is None and not spec.stochastic
    return simple and derived and layout_of(spec.element).kind != "table"


def quantize_with_amax(x: Tensor, scheme: str, amax: Tensor) -> Parts:
    """(codes, scale, outer) of `x` under a per-tensor scheme, with the bits of `quantize`; `amax`: maxima whose maximum
    is that of |x|. ValueError for schemes whose scale takes more than the maximum of the tensor."""
    if not takes_amax(scheme):
        raise ValueError(
            f"scheme: got '{scheme}', accepted: one scale per tensor from its maximum, such as 'e4m3fn', 'int8:pow2'"
        )
    spec = parse(scheme)
    largest = amax.amax() if amax.numel() else amax.new_zeros(())
    return quantize_by_amax(x, spec, largest.float().reshape(1, 1))
