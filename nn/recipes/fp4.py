"""Four-bit recipes that are not microscaling ones: NVFP4, vector-wise FP4, powers of two and four."""

from __future__ import annotations

from narrowgauge.nn.recipe import recipe

RECIPES = (
    recipe(
        "nvfp4",
        "arXiv 2509.25149: activations and gradients 1x16, weights 16x16, stochastic gradients, a Hadamard rotation of "
        "16 with one fixed vector of signs for the weight gradient; the last block in high precision (the paper's 12B "
        "model: the first two and the last eight of 62). Block scales go to the nearest E4M3 value, as published, so "
        "that the largest value of a block may clip: Gaussian gradients lose 0.35 %, 'nvfp4:rceil+sr' nothing",
        x_fprop="nvfp4", w="nvfp4_2d", g_dgrad="nvfp4+sr", g_wgrad="nvfp4+sr+rht16", x_wgrad="nvfp4+rht16",
        keep=(0, 1),
        advice="attention, embedding, head and norms in bfloat16; the last part of a run in bfloat16 closes the gap",
    ),
    recipe(
        "nvfp4_all",
        "arXiv 2505.19115 (FP4 all the way): NVFP4 1x16 in all operands; stochastic are dY in both products and X in "
        "the weight gradient",
        every="nvfp4", g="nvfp4+sr", x_wgrad="nvfp4+sr",
        advice="the paper changes to a finer backward pass when the norm of the gradient falls below √3 times the "
        "deviation of its quantisation noise",
    ),
    recipe(
        "fp4_dge_occ",
        "arXiv 2501.17116: E2M1 per token with what lies outside the 0.01 and 0.99 quantiles kept apart, weights per "
        "channel with the differentiable gradient estimator, k = 5, capped at 3; dY is not quantised (the released "
        "code: E5M2 per tensor, scales of powers of two)",
        x_fprop="e2m1fn/row+occ0.99", w_fprop="e2m1fn/row", weight_map="dge5", requantize=True,
        advice="gradients between processes and the moments in FP8, as in fp8_lm",
    ),
    recipe(
        "luq",
        "arXiv 2112.10769: gradients in logarithmic FP4 1-3-0 without bias, forward INT4 clipped by SAWB with its "
        "constants for 15 levels (the released code: 12.1 and 12.2)",
        every="int4:sawb", g="luq_fp4+sr",
        advice="the largest gradient may come from earlier steps (hindsight); first and last layer in high precision; "
        "the paper ends with three epochs in high precision",
    ),
    recipe(
        "ultra_low_fp4",
        "Sun et al., NeurIPS 2020: forward INT4 clipped by SAWB (the paper: X by PACT), gradients in radix-4 FP4 in "
        "two phases, powers 4^j for the input gradient and 2 · 4^j for the weight gradient; scales per tensor follow "
        "the maximum (the paper: GradScale)",
        every="int4:sawb", g_dgrad="radix4_fp4", g_wgrad="radix4_fp4_odd:static=1.0+top4096",
        advice="first and last layer in higher precision; the paper adds FP16 sums and 8 bits for 1x1 convolutions",
        caveat="gradients are rounded to nearest in steps of four: behind high precision by design, least so for "
        "convolutions with batch norm",
    ),
)  # fmt: skip
