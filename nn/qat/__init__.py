"""Quantization-aware training: fake quantisers by method, `prepare_qat`, diagnostics, and the way to true codes."""

from __future__ import annotations

from narrowgauge.nn.learned_step import lsq_quantize
from narrowgauge.nn.qat.binary_connect import BinaryConnectWeight
from narrowgauge.nn.qat.bitdistiller import BitDistillerWeight, cakld_loss, teacher_confidence
from narrowgauge.nn.qat.bitnet import AbsmaxActivation, BitNet158Weight, BitNetWeight
from narrowgauge.nn.qat.block_training import block_ap, e2e_qp, full_precision
from narrowgauge.nn.qat.config import Part, Phase, QATConfig, part
from narrowgauge.nn.qat.continual import ContinualQAT
from narrowgauge.nn.qat.dge import DGEWeight
from narrowgauge.nn.qat.dorefa import DoReFaActivation, DoReFaGradient, DoReFaWeight, dorefa_gradient
from narrowgauge.nn.qat.efficientqat import EfficientQATWeight, affine_quantize
from narrowgauge.nn.qat.freeze import FrozenLinear, freeze_qat, frozen_bound, frozen_layer
from narrowgauge.nn.qat.hadamard import hadamard
from narrowgauge.nn.qat.linear import QATLinear
from narrowgauge.nn.qat.llm_qat import LLMQATActivation, LLMQATWeight, quantize_kv, quantize_kv_outputs
from narrowgauge.nn.qat.lsq import LSQActivation, LSQPlusActivation, LSQWeight
from narrowgauge.nn.qat.oscillation import LayerOscillation, OscillationMonitor, OscillationReport
from narrowgauge.nn.qat.pact import PACTActivation, pact_penalty, pact_quantize
from narrowgauge.nn.qat.prepare import after_step, prepare_qat, qat_layers, quantizer_parameters, revert_qat
from narrowgauge.nn.qat.quantizer import (
    ActivationQuantizer,
    GradientQuantizer,
    Scaled,
    WeightCodes,
    WeightQuantizer,
)
from narrowgauge.nn.qat.quest import QuestActivation, QuestWeight, quest_trust
from narrowgauge.nn.qat.registry import QAT, qat
from narrowgauge.nn.qat.scheme_ste import SchemeActivation, SchemeWeight
from narrowgauge.nn.qat.xnor import XNORActivation, XNORWeight
from narrowgauge.nn.straight_through import straight_through

__all__ = [
    "QAT",
    "AbsmaxActivation",
    "ActivationQuantizer",
    "BinaryConnectWeight",
    "BitDistillerWeight",
    "BitNet158Weight",
    "BitNetWeight",
    "ContinualQAT",
    "DGEWeight",
    "DoReFaActivation",
    "DoReFaGradient",
    "DoReFaWeight",
    "EfficientQATWeight",
    "FrozenLinear",
    "GradientQuantizer",
    "LLMQATActivation",
    "LLMQATWeight",
    "LSQActivation",
    "LSQPlusActivation",
    "LSQWeight",
    "LayerOscillation",
    "OscillationMonitor",
    "OscillationReport",
    "PACTActivation",
    "Part",
    "Phase",
    "QATConfig",
    "QATLinear",
    "QuestActivation",
    "QuestWeight",
    "Scaled",
    "SchemeActivation",
    "SchemeWeight",
    "WeightCodes",
    "WeightQuantizer",
    "XNORActivation",
    "XNORWeight",
    "affine_quantize",
    "after_step",
    "block_ap",
    "cakld_loss",
    "dorefa_gradient",
    "e2e_qp",
    "freeze_qat",
    "frozen_bound",
    "frozen_layer",
    "full_precision",
    "hadamard",
    "lsq_quantize",
    "pact_penalty",
    "pact_quantize",
    "part",
    "prepare_qat",
    "qat",
    "qat_layers",
    "quantize_kv",
    "quantize_kv_outputs",
    "quantizer_parameters",
    "quest_trust",
    "revert_qat",
    "straight_through",
    "teacher_confidence",
]
