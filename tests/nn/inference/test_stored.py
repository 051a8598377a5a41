"""StoredWeight: a state_dict says what its codes mean, and one that means something else is refused."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from narrowgauge.nn import QuantConv2d, QuantLinear
from narrowgauge.nn.inference import InferenceConv, InferenceEmbedding, InferenceLinear, StoredWeight

K, N = 64, 8


def model(scheme: str, seed: int = 0, rotate: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layer = InferenceLinear.from_linear(nn.Linear(K, N), scheme, rotate=rotate)
    return nn.Sequential(layer, InferenceEmbedding.from_embedding(nn.Embedding(N, K), scheme))


def test_codes_of_another_scheme_are_refused_and_nothing_is_copied() -> None:
    into = model("nf4/1x64")
    before = copy.deepcopy(into.state_dict())
    with pytest.raises(
        RuntimeError, match=r"0.codes are of scheme int4/1x64, accepted here: scheme nf4/1x64"
    ) as caught:
        into.load_state_dict(model("int4/1x64", 1).state_dict())
    assert "1.codes are of scheme int4/1x64" in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in into.state_dict().items())
    with pytest.raises(RuntimeError, match="scheme int4/1x64"):
        into.load_state_dict(model("int4/1x64", 1).state_dict(), strict=False)


def test_codes_in_another_basis_are_refused() -> None:
    with pytest.raises(RuntimeError, match=r"0.codes are of rotation 16, accepted here: rotation 0"):
        model("int8/row").load_state_dict(model("int8/row", rotate=16).state_dict())


@pytest.mark.parametrize("assign", [False, True])
def test_the_same_scheme_comes_back_through_a_file(assign: bool, tmp_path: Path) -> None:
    first, second = model("nf4/1x64"), model("nf4/1x64", 1)
    torch.save(first.state_dict(), tmp_path / "state")
    second.load_state_dict(torch.load(tmp_path / "state", weights_only=True), assign=assign)
    assert torch.equal(second[0].dequantize(), first[0].dequantize())
    assert torch.equal(second[1].dequantize(), first[1].dequantize())
    with pytest.raises(RuntimeError, match="scheme nf4/1x64"):
        model("int4/1x64").load_state_dict(torch.load(tmp_path / "state", weights_only=True))


def test_a_state_without_metadata_is_taken() -> None:
    first, second = model("nf4/1x64"), model("nf4/1x64", 1)
    second.load_state_dict(dict(first.state_dict()))
    assert torch.equal(second[0].dequantize(), first[0].dequantize())
    plain: dict[str, torch.Tensor] = {}
    first[0].state_dict(destination=plain)
    assert sorted(plain) == ["bias", "codes", "scale"]


def test_convolutions_say_it_too() -> None:
    def layer(scheme: str) -> StoredWeight:
        torch.manual_seed(0)
        return InferenceConv.from_quant_conv(QuantConv2d(4, N, 3, recipe="fp8_row"), scheme)

    with pytest.raises(RuntimeError, match="codes are of scheme e4m3fn/row, accepted here: scheme e5m2/row"):
        layer("e5m2/row").load_state_dict(layer("e4m3fn/row").state_dict())


def test_what_a_quantised_layer_gives_is_taken_by_its_like() -> None:
    layer = InferenceLinear.from_quant_linear(QuantLinear(K, N, recipe="fp8_row"))
    like = InferenceLinear(**layer.quantization)
    like.load_state_dict(layer.state_dict())
    assert torch.equal(like.codes, layer.codes)
