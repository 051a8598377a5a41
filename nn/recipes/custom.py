"""Recipes in other number systems: wide floats, block floating point, tapered, logarithmic and squeezed formats."""

from __future__ import annotations

from narrowgauge.nn.recipe import recipe

RECIPES = (
    recipe(
        "bf16", "arXiv 1905.12322: bfloat16 operands, no scales, sums in float32", every="bf16:static=1.0",
    ),
    recipe(
        "fp16",
        "arXiv 1710.03740: float16 operands, sums in float32, float32 master weights",
        every="fp16:static=1.0",
        advice="dynamic loss scaling: torch.amp.GradScaler, doubled every 2000 clean steps, halved after an overflow",
    ),
    recipe(
        "hbfp8",
        "arXiv 1804.01526: block floating point with mantissas of 8 bits in tiles of 24x24, the rest in float32 (the "
        "released code: X and dY share an exponent per sample, rounding is stochastic)",
        every="hbfp8",
        advice="the paper keeps the weights with mantissas of 16 bits",
    ),
    recipe(
        "hbfp12", "arXiv 1804.01526, as hbfp8 with mantissas of 12 bits", every="hbfp12",
        advice="the paper keeps the weights with mantissas of 16 bits",
    ),
    recipe(
        "hbfp4",
        "arXiv 2211.10737 (Accuracy Booster): mantissas of 4 bits, in hbfp8's tiles (the paper compares sizes of "
        "blocks); first and last block in high precision (the paper: 6 bits there and in the last epoch)",
        every="hbfp4", keep=(1, 1),
    ),
    recipe("msfp12", "Rouhani et al., NeurIPS 2020: MSFP-12, one exponent per 16 values", every="msfp12"),
    recipe("msfp16", "Rouhani et al., NeurIPS 2020: MSFP-16, one exponent per 16 values", every="msfp16"),
    recipe("mx9", "arXiv 2302.08007: two levels of exponents, 9 bits per value", every="mx9"),
    recipe("mx6", "formats of arXiv 2302.08007, forward MX6, backward MX9", every="mx9", x_fprop="mx6", w_fprop="mx6"),
    recipe(
        "hif8",
        "arXiv 2409.16626: HiF8 without scales, its tapered exponents hold activations and weights; ties away. dY has "
        "a power of two per tensor, the place of the paper's loss scale",
        every="hif8:static=1.0", g="hif8:pow2",
    ),
    recipe(
        "posit8",
        "Lu et al., IEEE TC 2021: posit(8,1) forward, posit(8,2) gradients, shifted into the middle of their range by "
        "a power of two per tensor (the paper: per layer, after a warm-up)",
        every="posit8es1:pow2", g="posit8es2:pow2",
    ),
    recipe(
        "lns_madam",
        "arXiv 2106.13914: 8-bit logarithms with base factor 8 in all operands, one scale per row along the reduction",
        every="lns8g8/row",
        advice="the Madam optimizer, whose steps are multiplicative: w · 2^(-lr · sign(w) · g / √v)",
    ),
    recipe(
        "s2fp8",
        "arXiv 2001.05674: E5M2 after a shift and a squeeze of log2 |x| per tensor",
        every="e5m2:static=1.0+s2",
    ),
    recipe(
        "dqt8",
        "arXiv 2412.04787: weights live on an int8 grid, every step rounds them stochastically; no float master. The "
        "grid has one scale per tensor, kept from the start (the released code: of mean|W|, beyond which weights "
        "clip). X in int8 per token, in the weight gradient, too; dY in high precision",
        x_fprop="int8/row", w="int8", requantize=True, update="int8+sr",
        advice="GridWeights; a ternary grid is GridWeights(model, 'ternary+sr', scale='absmean')",
    ),
    recipe(
        "eco",
        "arXiv 2601.22101: E4M3 weights without a master, what rounding leaves is put into the momentum",
        every="e4m3fn/row", w="e4m3fn/1x128",
        advice="optim.AdamW(params, master='eco:e4m3fn/1x128') does the step",
    ),
)  # fmt: skip
