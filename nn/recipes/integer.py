"""Integer recipes: SwitchBack, Jetfire, scalable 8-bit training, StatQuant, fallback, hindsight, UI8, NITI."""

from __future__ import annotations

from narrowgauge.nn.recipe import Recipe, recipe

GRADIENTS = {"ptq": "uint{}+sr+affine", "psq": "uint{}/row+sr+affine", "bhq": "uint{}/row+sr+bhq+affine"}
"""StatQuant's quantisers of dY, by name: per tensor, per sample, block Householder."""


def statquant(kind: str, bits: int = 8) -> Recipe:
    """StatQuant with the quantiser `kind` ("ptq", "psq", "bhq") of `bits` (2 to 8) for the gradient that goes back.

    ValueError for other kinds and widths.
    """
    if kind not in GRADIENTS:
        raise ValueError(f"kind: got {kind!r}, accepted: {', '.join(GRADIENTS)}")
    if not 2 <= bits <= 8:
        raise ValueError(f"bits: expected 2 to 8, got {bits}")
    return recipe(
        f"statquant_{kind}{'' if bits == 8 else bits}",
        "arXiv 2010.14298: 8-bit affine per tensor for X, W and the dY of dW; the dY of dX in "
        f"{bits} bits, {_KINDS[kind]}. All roundings of dY stochastic, the two copies drawn independently; a token "
        "counts as a sample",
        x="uint8+affine", w="uint8+affine", g_dgrad=GRADIENTS[kind].format(bits), g_wgrad=GRADIENTS["ptq"].format(8),
        caveat=_CAVEAT if (kind, bits) == ("ptq", 4) else "",
    )  # fmt: skip


_KINDS = {
    "ptq": "one range per tensor",
    "psq": "one range per sample",
    "bhq": "rows in groups, a large one spread over small ones by a Householder reflection",
}
_CAVEAT = "a few large gradients take the range of all samples; the paper's runs with so few bits diverge"

RECIPES = (
    recipe(
        "int8_switchback",
        "arXiv 2304.13013: int8 rows of X and dY, one scale for W; the weight gradient, whose sums are the longest, "
        "stays in high precision",
        x_fprop="int8/row", w_fprop="int8", g_dgrad="int8/row", w_dgrad="int8",
        advice="AdamW with update clipping per tensor (StableAdamW)",
    ),
    recipe(
        "int8_torchao",
        "torchao's int8 mixed-precision training: every operand int8 per row along its reduction, to nearest",
        every="int8/row",
    ),
    recipe(
        "int8_jetfire",
        "arXiv 2403.12422: int8 in tiles of 32x32 for every operand, gradients stochastic, and an int8 data flow: Y "
        "and dX are left in such tiles, too. Scales are float32",
        every="int8/32x32", g="int8/32x32+sr", out_fprop="int8/32x32", out_dgrad="int8/32x32+sr",
        advice="in the paper norms, activations and residuals read and write such tiles as well",
    ),
    recipe(
        "int8_sbm",
        "arXiv 1805.11046: int8 per tensor forward and for dX (stochastic dY); the bifurcation: dW takes dY in high "
        "precision, and X as it was forward. Ranges are the tensor's own, the paper averages those of chunks",
        x="int8", w="int8", g_dgrad="int8+sr",
        advice="RangeBatchNorm in the place of batch normalisation",
    ),
    *(statquant(kind, bits) for kind in GRADIENTS for bits in (8, 5, 4)),
    recipe(
        "int8_fallback",
        "arXiv 2503.08040: int8 in tiles of 128x128, and a second int8 term for the fifth of X's tiles with the "
        "largest values: fprop and wgrad cost 1.2 of a plain GEMM, dgrad one. dY is rounded stochastically. The paper "
        "steers a threshold towards such a share",
        every="int8/128x128", x="int8/128x128+fallback0.2", g="int8/128x128+sr",
    ),
    recipe(
        "fp8_fallback",
        "arXiv 2503.08040 with E4M3 in the place of int8: a second E4M3 term for the fifth of X's tiles with the "
        "largest values; fprop and wgrad cost 1.2 of a plain GEMM",
        every="e4m3fn/128x128", x="e4m3fn/128x128+fallback0.2",
    ),
    recipe(
        "int8_hindsight",
        "arXiv 2105.04246: int8 per tensor; ranges of X and dY are known before the tensors are, moving averages (0.9) "
        "of those of earlier steps; dY stochastic. The ranges are symmetric, the paper's are minimum and maximum",
        x="int8:hindsight=0.9", w="int8", g="int8:hindsight=0.9+sr",
    ),
    recipe(
        "int8_ui8",
        "arXiv 1912.12607 (UI8): int8 per tensor, dY clipped and stochastic. The clipping point has the least squared "
        "error; the paper's has the least angle between dY and its codes",
        every="int8", g="int8:mse+sr",
        advice="a learning rate that falls with the angle between dY and its codes",
    ),
    recipe(
        "niti",
        "arXiv 2009.13108, its number formats: int8 with one power of two per tensor for every operand, Y and dX as "
        "well (stochastic), weights on an int8 grid. nn.niti computes all of it in integers",
        every="int8:pow2", out_fprop="int8:pow2+sr", out_dgrad="int8:pow2+sr", update="int8:pow2+sr",
        advice="GridWeights; plain SGD. In the paper an update has a few bits, which takes the place of a learning "
        "rate",
    ),
)  # fmt: skip
