"""freeze_qat: true codes whose outputs are those of the fake-quantised model within the bound."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from narrowgauge.nn.inference.linear import InferenceLinear
from narrowgauge.nn.qat import (
    QAT,
    ContinualQAT,
    FrozenLinear,
    QATConfig,
    QATLinear,
    freeze_qat,
    frozen_bound,
    frozen_layer,
    prepare_qat,
    qat,
    qat_layers,
)  # fmt: skip

SETTINGS = {"efficientqat": {"group": 16}, "bitdistiller": {"bits": 2, "group": 16}}
CASES = [
    *[(name, SETTINGS.get(name, {})) for name in QAT],
    ("bitdistiller", {"grid": "nf", "group": 16}),
    ("lsq", {"bits": 3, "activation_bits": 8, "granularity": "row"}),
    ("lsq", {"bits": 4, "activation_bits": 4, "signed": False}),
    ("lsq_plus", {"activation_bits": 4}),
    ("quest", {"bits": 3, "activation_bits": None}),
    ("quest", {"bits": 1.58, "activation_bits": 4}),
    ("ste", {"weight": "e4m3fn/row", "activation": "e4m3fn/row"}),
    ("ste", {"weight": "mxfp4", "activation": "mxfp8_e4m3"}),
    ("ste", {"weight": "int8/row", "activation": "int8/row"}),
]
IDS = [f"{name}-{i}" for i, (name, _) in enumerate(CASES)]


@pytest.mark.parametrize(("name", "settings"), CASES, ids=IDS)
def test_outputs_stay_within_the_bound(name: str, settings: dict) -> None:
    torch.manual_seed(0)
    layer = QATLinear.from_linear(nn.Linear(96, 40), qat(name, **settings))
    x = torch.randn(2, 9, 96)
    layer(x)
    layer.set_strength(1.0)
    layer.eval()
    expected, bound = layer(x), frozen_bound(layer, x)
    frozen = frozen_layer(layer)
    actual = frozen(x)
    assert actual.dtype == torch.float32
    assert ((actual - expected).abs().double() <= bound).all()
    # The bound is about rounding, not about quantisation.
    assert bound.max() < 1e-3 * expected.abs().max() * 2
    assert not any(p.requires_grad for p in frozen.parameters())


@pytest.mark.parametrize(
    ("name", "settings", "kind", "scheme"),
    [
        ("llm_qat", {}, InferenceLinear, "int8/row"),
        ("bitnet_b158", {}, InferenceLinear, "int8/row"),
        ("lsq", {}, InferenceLinear, None),
        ("lsq_plus", {"activation_bits": 8}, FrozenLinear, None),
        ("quest", {}, FrozenLinear, None),
        ("ste", {"weight": "e4m3fn/row", "activation": "e4m3fn/row"}, InferenceLinear, "e4m3fn/row"),
    ],
)
def test_the_input_is_quantised_as_codes_where_a_scheme_can(name, settings, kind, scheme) -> None:
    layer = QATLinear.from_linear(nn.Linear(32, 8), qat(name, **settings))
    layer(torch.randn(4, 32))
    frozen = frozen_layer(layer)
    assert type(frozen) is kind
    linear = frozen if isinstance(frozen, InferenceLinear) else frozen.linear
    assert linear.quantization["input"] == scheme


def test_a_whole_model_is_frozen_in_place_and_small() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"k_proj": nn.Linear(64, 64), "out": nn.Linear(64, 64), "lm_head": nn.Linear(64, 10)})
    model["again"] = model["out"]
    calls: list[int] = []
    model["out"].register_forward_hook(lambda *args: calls.append(1))
    prepare_qat(model, qat("llm_qat", bits=4, kv_bits=8))
    x = torch.randn(5, 64)
    keys, expected = model["k_proj"](x), model["out"](x)
    bound = frozen_bound(model["out"], x)
    assert freeze_qat(model) is model
    assert isinstance(model["out"], InferenceLinear)
    assert model["again"] is model["out"]
    assert isinstance(model["k_proj"], FrozenLinear)
    assert type(model["lm_head"]) is nn.Linear
    assert ((model["out"](x) - expected).abs().double() <= bound).all()
    assert len(calls) == 2
    step = keys.abs().amax(-1, keepdim=True) / 127
    assert ((model["k_proj"](x) - keys).abs() <= 1.01 * step).all()
    stored = sum(buffer.nbytes for buffer in model["out"].buffers())
    assert stored < 0.2 * 64 * 64 * 4


def test_every_method_freezes_a_trained_bfloat16_layer() -> None:
    for name in ("llm_qat", "efficientqat", "quest"):
        layer = QATLinear.from_linear(nn.Linear(64, 16, dtype=torch.bfloat16), qat(name))
        x = torch.randn(4, 64, dtype=torch.bfloat16)
        expected, actual = layer(x), frozen_layer(layer)(x)
        assert actual.dtype == torch.bfloat16
        torch.testing.assert_close(actual, expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("config", [qat("lsq", activation_bits=8), qat("lsq_plus", activation_bits=8)])
def test_a_learned_step_without_a_value_is_refused_by_name(config: QATConfig) -> None:
    model = prepare_qat(nn.Sequential(nn.Linear(8, 8)), config)
    with pytest.raises(ValueError, match="0: activation: the learned step has no value yet; run one batch in training"):
        freeze_qat(model)
    assert list(qat_layers(model)) == ["0"]
    model(torch.randn(4, 8))
    freeze_qat(model)


def test_a_phase_that_is_not_over_is_refused_by_name() -> None:
    model = prepare_qat(nn.Sequential(nn.Linear(8, 8)), qat("continual", start=10))
    ContinualQAT(model)
    with pytest.raises(ValueError, match="0: strength: is 0, accepted: 1"):
        freeze_qat(model)
    assert list(qat_layers(model)) == ["0"]
