"""Published 8-bit floating-point recipes. Slots follow the papers and the libraries named in `source`."""

from __future__ import annotations

from narrowgauge.nn.recipe import recipe

_LOSS_SCALE = "loss scaling (torch.amp.GradScaler): E5M2 without scales of its own loses gradients below 2^-17"

RECIPES = (
    recipe(
        "fp8_tensor",
        "arXiv 2209.05433 (HYBRID) with current scaling: one scale per tensor, gradients E5M2",
        every="e4m3fn", g="e5m2",
    ),
    recipe(
        "fp8_delayed",
        "arXiv 2209.05433 as TransformerEngine's DelayedScaling: HYBRID, scales from the largest of the last 1024 "
        "maxima, margin 0; what exceeds the scale saturates",
        every="e4m3fn:delayed=1024", g="e5m2:delayed=1024",
        advice="across processes the maxima are to be reduced over the group that shares the tensor",
    ),
    recipe(
        "fp8_row", "row-wise E4M3 along each reduction axis; float32 scales, not rounded to 2^k", every="e4m3fn/row"
    ),
    recipe(
        "fp8_row_hp_wgrad",
        "torchao's rowwise_with_gw_hp: E4M3 rows, the weight of dgrad per tensor, powers of two; the weight gradient "
        "in high precision",
        x_fprop="e4m3fn/row:pow2", w_fprop="e4m3fn/row:pow2", g_dgrad="e4m3fn/row:pow2", w_dgrad="e4m3fn:pow2",
    ),
    recipe(
        "fp8_deepseek",
        "arXiv 2412.19437: activations and gradients 1x128, weights 128x128, all E4M3, float32 scales; sums of 128 "
        "products are promoted to float32, as the scaled GEMM does. X of the weight gradient is made from X (the "
        "paper: from its cached 1x128 copy)",
        every="e4m3fn/1x128", w="e4m3fn/128x128",
        advice="embedding, head, router, norms and attention stay in high precision; bfloat16 moments",
    ),
    recipe(
        "fp8_deepseek_ue8m0",
        "arXiv 2412.19437 with UE8M0 scales, rounded up (the paper: for activations that are cached; DeepGEMM: all)",
        every="e4m3fn/1x128:pow2", w="e4m3fn/128x128:pow2",
        advice="embedding, head, router, norms and attention stay in high precision; bfloat16 moments",
    ),
    recipe(
        "fp8_block_te",
        "TransformerEngine's Float8BlockScaling: E4M3, 1x128 and 128x128, scales constrained to powers of two (its "
        "default); the slots of fp8_deepseek_ue8m0",
        every="e4m3fn/1x128:pow2", w="e4m3fn/128x128:pow2",
    ),
    recipe(
        "fp8_lm",
        "arXiv 2310.18313 (FP8-LM, MS-AMP): HYBRID, one power of two per tensor, rounded so that nothing clips (the "
        "released code: for X and dY from the maxima of 16 calls)",
        every="e4m3fn:pow2", g="e5m2:pow2",
        advice="Adam with m in FP8, v and the master weights in FP16, each with a scale per tensor; gradients are "
        "reduced in FP8 under one scale for all ranks",
    ),
    recipe(
        "fp8_2t",
        "arXiv 2409.12517: delayed scaling as in fp8_delayed; the layer behind SwiGLU takes `smoothed` of this recipe. "
        "(The released code for Gaudi 2: all of the backward pass in E5M2, dY stochastic, SwiGLU scaled per token)",
        every="e4m3fn:delayed=1024", g="e5m2:delayed=1024",
        advice="Smooth-SwiGLU: convert(model, 'fp8_2t', overrides={'down_proj': smoothed('fp8_2t')}); Adam with m in "
        "E4M3 and v in E5M2",
    ),
    recipe(
        "coat",
        "arXiv 2410.19313: operands per tensor, E4M3 and E5M2 gradients, scaled just in time (the paper keeps scales "
        "in bfloat16, here float32)",
        every="e4m3fn", g="e5m2",
        advice="nn.compress_activations(model) and optim.AdamW(state='coat')",
    ),
    recipe(
        "hfp8",
        "Sun et al., NeurIPS 2019 (HFP8): forward 1-4-3 with bias 11, backward 1-5-2, no scales; the last block in "
        "high precision (the paper: the last layer, in 16 bits)",
        every="e4m3b11fnuz:static=1.0", g="e5m2:static=1.0", keep=(0, 1),
        advice=_LOSS_SCALE,
    ),
    recipe(
        "fp8_ibm2018",
        "arXiv 1812.08011: 1-5-2 everywhere, no scales, sums in 1-6-9 by chunks of 64, weights on a 1-6-9 grid updated "
        "with stochastic rounding; first and last block in high precision (the paper: layers, in 16 bits)",
        every="e5m2:static=1.0", accumulate="dlfloat16/64", update="dlfloat16:static=1.0+sr", keep=(1, 1),
        advice=f"GridWeights keeps the weights on their grid; {_LOSS_SCALE}; the paper: by 1000",
    ),
    recipe(
        "mu_s",
        "arXiv 2502.05967 (µS): operands are cast to E4M3, gradients to E5M2, without scales",
        every="e4m3fn:static=1.0", g="e5m2:static=1.0",
        advice="needs its parametrisation: unit variance at initialisation, outputs divided by √fan_in, fixed residual "
        "weights, norms behind the branches; embedding and head in bfloat16",
    ),
    recipe(
        "fp8_noune",
        "arXiv 2206.02915: 1-4-3 and 1-5-2 with one exponent bias per tensor, that is a power-of-two scale, in the "
        "encodings without infinities and -0 that it proposes; biases follow the maximum here",
        every="e4m3fnuz:pow2", g="e5m2fnuz:pow2",
        advice="first and last layer in 16 bits",
    ),
)  # fmt: skip
