"""convert, revert and explain on models."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import narrowgauge as ng
from narrowgauge.nn import QuantLinear


class Tied(nn.Module):
    """An embedding tied to its head, one layer used twice, and a nested block."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(32, 16)
        self.block = nn.ModuleDict({"up": nn.Linear(16, 24), "down": nn.Linear(24, 16, bias=False)})
        self.again = self.block["up"]
        self.lm_head = nn.Linear(16, 32, bias=False)
        self.lm_head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        h = self.embed(ids)
        h = h + self.block["down"](torch.relu(self.block["up"](h)) + torch.relu(self.again(h)))
        return self.lm_head(h)


def test_convert_swaps_in_place_and_keeps_parameters() -> None:
    model = Tied()
    before = dict(model.named_parameters())
    keys = list(model.state_dict())
    assert ng.convert(model, "fp8_row") is model
    assert all(before[name] is parameter for name, parameter in model.named_parameters())
    assert list(model.state_dict()) == keys
    assert isinstance(model.block["up"], QuantLinear)
    assert type(model.lm_head) is nn.Linear
    assert model.lm_head.weight is model.embed.weight
    assert model.again is model.block["up"]


def test_converted_model_trains() -> None:
    torch.manual_seed(0)
    model = ng.convert(Tied(), "fp8_row")
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    ids = torch.randint(0, 32, (8, 12))
    losses = []
    for _ in range(30):
        loss = nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_filter_and_skip_leave_layers_alone() -> None:
    model = ng.convert(Tied(), "fp8_row", filter_fn=lambda module, name: "up" in name or name == "again", skip=())
    assert isinstance(model.block["up"], QuantLinear)
    assert type(model.block["down"]) is nn.Linear
    assert type(model.lm_head) is nn.Linear
    model = ng.convert(Tied(), "fp8_row", skip=("block.up", "lm_head"))
    assert type(model.block["up"]) is nn.Linear
    assert isinstance(model.block["down"], QuantLinear)


def test_converting_again_changes_the_recipe_and_nothing_else() -> None:
    model = ng.convert(Tied(), "fp8_row")
    weight = model.block["up"].weight
    ng.convert(model, "mxfp8")
    assert model.block["up"].recipe.name == "mxfp8"
    assert model.block["up"].weight is weight


def test_revert_restores_plain_linears_bit_for_bit() -> None:
    model = Tied()
    ids = torch.arange(12).reshape(2, 6)
    expected = model(ids)
    ng.revert(ng.convert(model, "int8_switchback"))
    assert not any(isinstance(module, QuantLinear) for module in model.modules())
    assert torch.equal(model(ids), expected)


def test_training_mode_and_hooks_move_along() -> None:
    model = Tied().eval()
    calls: list[str] = []
    model.block["up"].register_forward_hook(lambda *args: calls.append("up"))
    ng.convert(model, "fp8_row")
    assert not model.block["up"].training
    model(torch.arange(4).reshape(1, 4))
    assert "up" in calls


def test_explain_says_what_runs_in_what_and_what_was_left_alone() -> None:
    model = ng.convert(Tied(), "fp8_tensor")
    table = ng.explain(model)
    facts = table.to_dict()
    assert (facts["converted"], facts["left_alone"]) == (3, 1)
    rows = {row["name"]: row for row in facts["layers"]}
    assert rows["block.up"]["gemms"]["dgrad"]["operands"] == "e5m2 x e4m3fn"
    assert "emulated" in rows["block.up"]["gemms"]["fprop"]["runs"]
    assert rows["lm_head"]["reason"]
    text = str(table)
    assert "block.down" in text
    assert "left alone" in text
    assert "high precision" in str(ng.explain(ng.convert(Tied(), "int8_switchback")))


def test_explain_says_what_is_decoded_by_table() -> None:
    slots = {"x_fprop": "e4m3fn/row", "w_fprop": "nf4/1x16", "g_dgrad": "int8/row", "w_dgrad": "int8/1x8"}
    model = ng.convert(nn.Sequential(nn.Linear(16, 8)), ng.nn.recipe("mixed", **slots))
    gemms = ng.explain(model).rows[0].gemms
    assert gemms["fprop"].runs == "emulated: decoded by table to float32, BLAS"
    assert gemms["dgrad"].runs == "emulated: decoded to float32 through float32 BLAS"
    assert gemms["wgrad"].runs == "float32 matmul"


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: ng.convert(Tied(), "fp8_tensors"), "unknown name 'fp8_tensors'; nearest: fp8_tensor"),
        (lambda: ng.convert(Tied(), "fp8_row", skip="lm_head"), "skip: expected a collection"),
        (lambda: ng.convert(nn.Linear(2, 2)), "from_linear"),
        (lambda: ng.convert(nn.Sequential(nn.ReLU())), "no nn.Linear to convert"),
        (lambda: ng.convert(Tied(), filter_fn=lambda module, name: False), "filter_fn said no"),
    ],
)
def test_bad_input_is_named(call, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()
