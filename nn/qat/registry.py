"""Published QAT methods by name: `qat("lsq", bits=4)`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from narrowgauge.nn.qat.binary_connect import BinaryConnectWeight
from narrowgauge.nn.qat.bitdistiller import BitDistillerWeight
from narrowgauge.nn.qat.bitnet import AbsmaxActivation, BitNet158Weight, BitNetWeight
from narrowgauge.nn.qat.config import Phase, QATConfig, part
from narrowgauge.nn.qat.dge import DGEWeight
from narrowgauge.nn.qat.dorefa import DoReFaActivation, DoReFaGradient, DoReFaWeight
from narrowgauge.nn.qat.efficientqat import EfficientQATWeight
from narrowgauge.nn.qat.groups import Granularity
from narrowgauge.nn.qat.llm_qat import LLMQATActivation, LLMQATWeight
from narrowgauge.nn.qat.lsq import LSQActivation, LSQPlusActivation, LSQWeight
from narrowgauge.nn.qat.pact import PACTActivation
from narrowgauge.nn.qat.quest import QuestActivation, QuestWeight
from narrowgauge.nn.qat.scheme_ste import SchemeActivation, SchemeWeight
from narrowgauge.nn.qat.xnor import XNORActivation, XNORWeight


def _ste(weight: str = "int4/row", activation: str | None = None, ste: str = "identity") -> QATConfig:
    return QATConfig(
        name="ste",
        weight=part(SchemeWeight, scheme=weight, ste=ste),
        activation=None if activation is None else part(SchemeActivation, scheme=activation, ste=ste),
        source="arXiv 1308.3432 over any scheme",
    )


def _binaryconnect(stochastic: bool = False, seed: int = 0) -> QATConfig:
    return QATConfig(
        name="binaryconnect",
        weight=part(BinaryConnectWeight, stochastic=stochastic, seed=seed),
        source="arXiv 1511.00363",
    )


def _xnor(activations: bool = True, gradient: str = "ste") -> QATConfig:
    return QATConfig(
        name="xnor",
        weight=part(XNORWeight, gradient=gradient),
        activation=part(XNORActivation) if activations else None,
        source="arXiv 1603.05279; activations=False: the binary-weight network",
    )


def _dorefa(bits: int = 4, activation_bits: int | None = 4, gradient_bits: int | None = 6, seed: int = 0) -> QATConfig:
    return QATConfig(
        name="dorefa",
        weight=part(DoReFaWeight, bits=bits),
        activation=None if activation_bits is None else part(DoReFaActivation, bits=activation_bits),
        gradient=None if gradient_bits is None else part(DoReFaGradient, bits=gradient_bits, seed=seed),
        source="arXiv 1606.06160",
    )


def _pact(bits: int = 4, activation_bits: int = 4, alpha: float = 6.0) -> QATConfig:
    return QATConfig(
        name="pact",
        weight=part(DoReFaWeight, bits=bits),
        activation=part(PACTActivation, bits=activation_bits, alpha=alpha),
        source="arXiv 1805.06085; weights by DoReFa, as there",
    )


def _lsq(
    bits: int = 4, activation_bits: int | None = None, granularity: Granularity = "tensor", signed: bool = True
) -> QATConfig:
    return QATConfig(
        name="lsq",
        weight=part(LSQWeight, bits=bits, granularity=granularity),
        activation=None if activation_bits is None else part(LSQActivation, bits=activation_bits, signed=signed),
        source="arXiv 1902.08153",
    )


def _lsq_plus(bits: int = 4, activation_bits: int | None = None, granularity: Granularity = "tensor") -> QATConfig:
    return QATConfig(
        name="lsq_plus",
        weight=part(LSQWeight, bits=bits, granularity=granularity, init="lsq_plus"),
        activation=None if activation_bits is None else part(LSQPlusActivation, bits=activation_bits),
        source="arXiv 2004.09576",
    )


def _bitnet(activation_bits: int | None = 8, norm: str = "layer") -> QATConfig:
    activation = part(AbsmaxActivation, bits=activation_bits, granularity="tensor", norm=norm)
    return QATConfig(
        name="bitnet",
        weight=part(BitNetWeight),
        activation=None if activation_bits is None else activation,
        source="arXiv 2310.11453",
    )


def _bitnet_b158(activation_bits: int | None = 8, norm: str = "none") -> QATConfig:
    return QATConfig(
        name="bitnet_b158",
        weight=part(BitNet158Weight),
        activation=None if activation_bits is None else part(AbsmaxActivation, bits=activation_bits, norm=norm),
        source="arXiv 2402.17764",
    )


def _llm_qat(bits: int = 4, activation_bits: int | None = 8, kv_bits: int | None = 8) -> QATConfig:
    return QATConfig(
        name="llm_qat",
        weight=part(LLMQATWeight, bits=bits),
        activation=None if activation_bits is None else part(LLMQATActivation, bits=activation_bits),
        kv=None if kv_bits is None else part(LLMQATActivation, bits=kv_bits),
        source="arXiv 2305.17888",
    )


def _efficientqat(bits: int = 2, group: Granularity = 64) -> QATConfig:
    return QATConfig(
        name="efficientqat", weight=part(EfficientQATWeight, bits=bits, group=group), source="arXiv 2407.11062"
    )


def _quest(bits: float = 4, activation_bits: float | None = 4, rotate: int | None = None) -> QATConfig:
    return QATConfig(
        name="quest",
        weight=part(QuestWeight, bits=bits, rotate=rotate),
        activation=None if activation_bits is None else part(QuestActivation, bits=activation_bits),
        source="arXiv 2502.05003",
    )


def _bitdistiller(bits: int = 3, grid: str = "int", group: Granularity = 128) -> QATConfig:
    return QATConfig(
        name="bitdistiller",
        weight=part(BitDistillerWeight, bits=bits, grid=grid, group=group),
        source="arXiv 2402.10631; the loss is cakld_loss",
    )


def _dge(
    weight: str = "e2m1fn/row", activation: str | None = "e2m1fn/row", k: float = 5.0, cap: float = 3.0
) -> QATConfig:
    return QATConfig(
        name="dge",
        weight=part(DGEWeight, scheme=weight, k=k, cap=cap),
        activation=None if activation is None else part(SchemeActivation, scheme=activation),
        source="arXiv 2501.17116, without its outlier compensation",
    )


def _continual(inner: str | QATConfig = "bitnet_b158", start: int = 0, ramp: int = 0, **settings: Any) -> QATConfig:
    if isinstance(inner, QATConfig) and settings:
        raise ValueError(f"{', '.join(settings)}: goes with an inner method's name, got a QATConfig")
    config = inner if isinstance(inner, QATConfig) else qat(inner, **settings)
    return replace(
        config,
        name=f"continual({config.name})",
        phase=Phase(start, ramp),
        source=f"arXiv 2502.11895: high precision first; then {config.source}",
    )


QAT: dict[str, Callable[..., QATConfig]] = {
    "ste": _ste,
    "binaryconnect": _binaryconnect,
    "xnor": _xnor,
    "dorefa": _dorefa,
    "pact": _pact,
    "lsq": _lsq,
    "lsq_plus": _lsq_plus,
    "bitnet": _bitnet,
    "bitnet_b158": _bitnet_b158,
    "llm_qat": _llm_qat,
    "efficientqat": _efficientqat,
    "quest": _quest,
    "bitdistiller": _bitdistiller,
    "dge": _dge,
    "continual": _continual,
}
"""Makers of configurations by method name; their keywords are what `qat` takes."""


def qat(name: str, **settings: Any) -> QATConfig:
    """The configuration of a method: `qat("lsq", bits=3)`, `qat("continual", inner="llm_qat", start=1000, bits=4)`.

    Raises ValueError for unknown methods (with the nearest known), unknown settings and values that a method does not
    take.
    """
    if name not in QAT:
        near = get_close_matches(str(name), QAT, n=2, cutoff=0.3)
        hint = f"nearest: {', '.join(near)}; " if near else ""
        raise ValueError(f"qat: unknown method {name!r}; {hint}known: {', '.join(QAT)}")
    make = QAT[name]
    parameters = inspect.signature(make).parameters
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    for setting in settings:
        if setting not in parameters and not open_ended:
            raise ValueError(f"{setting}: {name} has no such setting; accepted: {', '.join(parameters)}")
    return make(**settings)
