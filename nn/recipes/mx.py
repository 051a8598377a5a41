"""Recipes in microscaling (OCP MX) formats: 32 elements along the reduction axis share a power of two."""

from __future__ import annotations

from narrowgauge.nn.recipe import recipe

_UNBIASED = "mxfp4:rceil+sr+rht64fresh+gain0.75"
_QUARTET_BACKWARD = "mxfp4:rceil+sr+rht32fresh+gain0.75"
_QUARTET_FORWARD = "e2m1fn/1x32:static=1.0+rms2.92247856"
_TENSOR_FP8 = "e4m3fn"
_BEHIND = "round-to-nearest FP4 in all six operands ends behind high precision: its gradients are biased"

RECIPES = (
    recipe(
        "mxfp8", "arXiv 2506.08027: OCP MX v1.0 with E4M3 in all operands, scales rounded up (never clip)",
        every="mxfp8_e4m3",
    ),
    recipe(
        "mxfp8_e5m2_grad", "OCP MX v1.0, E4M3 forward and E5M2 gradients, scales rounded up",
        every="mxfp8_e4m3", g="mxfp8_e5m2",
    ),
    recipe(
        "mxfp6", "OCP MX v1.0 (arXiv 2310.10537); chosen here: E2M3 forward, E3M2 gradients, scales rounded up",
        every="mxfp6_e2m3", g="mxfp6_e3m2",
    ),
    recipe("mxfp6_e3m2", "OCP MX v1.0, E3M2 in all operands, scales rounded up", every="mxfp6_e3m2"),
    recipe(
        "mxfp4", "OCP MX v1.0, E2M1 in all operands, to nearest, scales rounded up: the baseline of the others",
        every="mxfp4", caveat=_BEHIND,
    ),
    recipe(
        "mxfp4_rht_sr",
        "arXiv 2502.20586: forward in high precision; backward MXFP4 of 3/4 · x, stochastic, behind a Hadamard "
        "rotation of 64 with new signs for each product",
        g=_UNBIASED, w_dgrad=_UNBIASED, x_wgrad=_UNBIASED,
    ),
    recipe(
        "mxfp4_rht_sr_fp8fwd", "arXiv 2502.20586 with its FP8 forward, E4M3 per tensor",
        x_fprop=_TENSOR_FP8, w_fprop=_TENSOR_FP8, g=_UNBIASED, w_dgrad=_UNBIASED, x_wgrad=_UNBIASED,
    ),
    recipe(
        "tetrajet",
        "arXiv 2502.20853: MXFP4 with scales that do not clip, forward to nearest, backward stochastic, backward "
        "operands from the quantised forward ones",
        x_fprop="mxfp4", w_fprop="mxfp4", g="mxfp4+sr", w_dgrad="mxfp4+sr", x_wgrad="mxfp4+sr", requantize=True,
        advice="against weights that swing between two levels: tetrajet_qema, or nn.QRamping on the optimizer",
    ),
    recipe(
        "tetrajet_qema",
        "arXiv 2502.20853 with Q-EMA: weights are rounded to the side of their moving average, decay 0.9983 (the "
        "released runs: 0.9983, 0.9972 and 0.999 for DeiT-T, -S and -B)",
        x_fprop="mxfp4", w_fprop="mxfp4", g="mxfp4+sr", w_dgrad="mxfp4+sr", x_wgrad="mxfp4+sr", requantize=True,
        weight_map="qema0.9983",
        advice="the decay is one per optimizer step: with n accumulated forwards take 0.9983^(1/n)",
    ),
    recipe(
        "quartet",
        "arXiv 2505.14669: forward E2M1 to nearest behind a Hadamard rotation of 32, scales from the rms, no gradient "
        "for what is clipped; backward stochastic MXFP4 of 3/4 · x from the quantised operands, rotated with new "
        "signs. Scales of the forward pass go to the nearest power of two (the released code: down, and from the "
        "standard deviation)",
        x_fprop=_QUARTET_FORWARD, w_fprop=_QUARTET_FORWARD,
        g=_QUARTET_BACKWARD, w_dgrad=_QUARTET_BACKWARD, x_wgrad=_QUARTET_BACKWARD,
        requantize=True, weight_map="trust2.92247856", input_map="trust2.92247856",
    ),
)  # fmt: skip
