"""Every named method: codes, gradients, dtypes, shapes and refusals that all of them have in common."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from narrowgauge.nn.qat import QAT, QATConfig, QATLinear, qat

SMALL = {"efficientqat": {"group": 16}, "bitdistiller": {"group": 16}}
EXTRA = [
    ("bitdistiller", {"grid": "nf", "group": 16}),
    ("lsq", {"bits": 3, "activation_bits": 4, "granularity": 16}),
    ("lsq_plus", {"bits": 2, "activation_bits": 4, "granularity": "row"}),
    ("quest", {"bits": 1.58, "activation_bits": None}),
    ("quest", {"bits": 1, "activation_bits": 8}),
    ("dorefa", {"bits": 1}),
    ("ste", {"weight": "mxfp4", "activation": "mxfp8_e4m3"}),
    ("ste", {"weight": "nvfp4", "activation": "nvfp4", "ste": "clipped"}),
    ("binaryconnect", {"stochastic": True}),
]
CASES = [(name, SMALL.get(name, {})) for name in QAT] + EXTRA
IDS = [f"{name}-{i}" for i, (name, _) in enumerate(CASES)]


def layer_of(name: str, settings: dict, dtype: torch.dtype = torch.float32, inputs: int = 48) -> QATLinear:
    torch.manual_seed(0)
    return QATLinear.from_linear(nn.Linear(inputs, 20, dtype=dtype), qat(name, **settings))


@pytest.mark.parametrize(("name", "settings"), CASES, ids=IDS)
def test_codes_decode_to_the_fake_quantised_weight_bit_for_bit(name: str, settings: dict) -> None:
    layer = layer_of(name, settings).eval()
    layer.set_strength(1.0)
    weight = layer.weight_quantizer.codes(layer.weight)
    assert weight.codes.dtype in (torch.uint8, torch.int8)
    assert weight.codes.shape == layer.weight.shape
    assert weight.scale.dtype == torch.float32
    assert torch.equal(weight.decode(), layer.quantized_weight())


@pytest.mark.parametrize(("name", "settings"), CASES, ids=IDS)
def test_a_second_quantisation_of_the_codes_finds_the_same_codes(name: str, settings: dict) -> None:
    layer = layer_of(name, settings)
    first = layer.weight_quantizer.codes(layer.weight).codes
    assert torch.equal(layer.weight_quantizer.codes(layer.weight).codes, first)
    assert len(first.unique()) > 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("name", "settings"), CASES, ids=IDS)
def test_dtypes_are_those_of_linear(name: str, settings: dict, dtype: torch.dtype) -> None:
    layer = layer_of(name, settings, dtype)
    x = torch.randn(2, 3, 48, dtype=dtype, requires_grad=True)
    y = layer(x)
    y.float().square().sum().backward()
    assert y.shape == (2, 3, 20)
    assert y.dtype == x.grad.dtype == layer.weight.grad.dtype == layer.bias.grad.dtype == dtype
    assert torch.isfinite(layer.weight.grad).all()


@pytest.mark.parametrize(("name", "settings"), CASES, ids=IDS)
def test_every_parameter_gets_a_finite_gradient(name: str, settings: dict) -> None:
    layer = layer_of(name, settings)
    layer.set_strength(1.0)
    y = layer(torch.randn(8, 48, generator=torch.Generator().manual_seed(1)))
    y.square().sum().backward()
    for label, parameter in layer.named_parameters():
        assert parameter.grad is not None, label
        assert torch.isfinite(parameter.grad).all(), label
    for label in ("weight", "bias"):
        assert getattr(layer, label).grad.abs().sum() > 0


@pytest.mark.parametrize(("name", "settings"), CASES, ids=IDS)
def test_weights_of_zeros_and_no_tokens_work(name: str, settings: dict) -> None:
    linear = nn.Linear(48, 4)
    with torch.no_grad():
        linear.weight.zero_()
    layer = QATLinear.from_linear(linear, qat(name, **settings))
    layer.set_strength(1.0)
    assert torch.isfinite(layer.quantized_weight()).all()
    empty = layer(torch.zeros(0, 48))
    assert empty.shape == (0, 4)
    empty.sum().backward()


def test_names_give_configs_with_a_source() -> None:
    for name in QAT:
        config = qat(name)
        assert isinstance(config, QATConfig)
        assert name in config.name
        assert "arXiv" in config.source
        assert config == qat(name)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: qat("lqs"), "unknown method 'lqs'; nearest: lsq"),
        (lambda: qat("lsq", bit=4), "bit: lsq has no such setting; accepted: bits, activation_bits"),
        (lambda: qat("lsq", bits=1), "bits: got 1, accepted: 2, 3"),
        (lambda: qat("quest", bits=2.5), r"bits: got 2\.5, accepted: 1, 1\.58, 2"),
        (lambda: qat("bitdistiller", bits=4), "bits: got 4, accepted: 2, 3"),
        (lambda: qat("efficientqat", group="col"), "granularity: got 'col'"),
        (lambda: qat("dorefa", gradient_bits=0), "gradient_bits: got 0"),
        (lambda: qat("ste", weight="int4/x"), "weight: "),
        (lambda: qat("continual", inner="llm_qat", bits=4, start=-1), "start: got -1"),
        (lambda: qat("continual", inner=qat("lsq"), bits=4), "goes with an inner method's name"),
        (lambda: qat("continual", inner="llm_qat", bitts=4), "bitts: llm_qat has no such setting"),
    ],
)
def test_wrong_names_and_values_are_refused(call, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()
