"""explain: what runs in what, what was left alone and why, memory before and after."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from torch import nn

import narrowgauge as ng
from narrowgauge.nn import RECIPES
from narrowgauge.nn.explain import EXACT_INTEGERS
from narrowgauge.nn.saved_bytes import bytes_saved


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(32, 16)
        self.up, self.down = nn.Linear(16, 24), nn.Linear(24, 16, bias=False)
        self.again = self.up
        self.lm_head = nn.Linear(16, 32, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        h = self.embed(ids)
        return self.lm_head(h + self.down(torch.relu(self.up(h))))


def test_the_table_says_what_runs_in_what_and_what_was_left_alone() -> None:
    table = ng.explain(ng.convert(Net(), "fp8_tensor"))
    facts = table.to_dict()
    assert json.loads(json.dumps(facts)) == facts | {
        "layers": [r | {"shape": list(r["shape"])} for r in facts["layers"]]
    }
    assert (facts["converted"], facts["left_alone"]) == (3, 1)
    rows = {row["name"]: row for row in facts["layers"]}
    assert list(rows) == ["up", "down", "again", "lm_head"]
    assert rows["up"]["gemms"]["dgrad"]["operands"] == "e5m2 x e4m3fn"
    assert "emulated" in rows["up"]["gemms"]["fprop"]["runs"]
    assert rows["lm_head"]["reason"] == "skip: 'lm_head'"
    assert rows["again"]["same_as"] == "up"
    text = str(table)
    for part in ("down", "left alone: skip: 'lm_head'", "3 layers quantised, 1 left alone", "64 → 16", "as up"):
        assert part in text, part
    assert "high precision" in str(ng.explain(ng.convert(Net(), "int8_switchback")))


def test_reasons_are_those_of_the_last_conversion() -> None:
    model = Net()
    reasons = {row.name: row.reason for row in ng.explain(model).rows}
    assert reasons["up"] == "not converted: convert was not called"
    ng.convert(model, overrides={"down": None}, skip=(), filter_fn=lambda module, name: name != "lm_head")
    reasons = {row.name: row.reason for row in ng.explain(model).rows}
    assert reasons["down"] == "overrides: 'down' is None"
    assert reasons["lm_head"] == "filter_fn said no"
    ng.convert(model, "fp32", skip=("down",))
    reasons = {row.name: row.reason for row in ng.explain(model).rows}
    assert reasons == dict.fromkeys(["up", "again", "lm_head"], "recipe 'fp32' quantises nothing") | {
        "down": "skip: 'down'"
    }
    assert "not called" in ng.explain(ng.revert(model)).rows[1].reason


def test_memory_is_what_autograd_keeps_and_codes_would_take() -> None:
    model = ng.convert(Net(), "fp8_row", skip=())
    rows = {row.name: row for row in ng.explain(model).rows}
    for name, row in rows.items():
        layer = getattr(model, name)
        few, many = (bytes_saved(layer, torch.zeros(count, layer.in_features)) for count in (64, 128))
        if name != "again":
            assert many - few == 64 * row.saved_after
            assert row.saved_before == 4 * layer.in_features
    assert rows["up"].weight_bytes == 16 * 24 * 4
    assert rows["up"].code_bytes == 16 * 24 + 24 * 4
    assert rows["again"].weight_bytes == 0
    assert rows["again"].saved_after is None
    totals = ng.explain(model).totals
    assert totals["weight_bytes"] == 4 * (16 * 24 * 2 + 16 * 32)
    assert totals["code_bytes"] == (16 * 24 * 2 + 16 * 32) + 4 * (24 + 16 + 32)
    assert totals["saved_before"] == 4 * (16 + 24 + 16)
    assert totals["saved_after"] == 56


def test_a_product_that_is_decoded_by_table_says_so() -> None:
    slots = {"x_fprop": "e4m3fn/row", "w_fprop": "nf4/1x16", "g_dgrad": "int8/row", "w_dgrad": "int8/1x8"}
    model = ng.convert(nn.Sequential(nn.Linear(16, 8)), ng.nn.recipe("mixed", **slots))
    gemms = ng.explain(model).rows[0].gemms
    assert gemms["fprop"].runs == "emulated: decoded by table to float32, BLAS"
    assert gemms["dgrad"].runs == "emulated: decoded to float32 through float32 BLAS"
    assert gemms["wgrad"].runs == "float32 matmul"


@pytest.mark.parametrize(("has", "words"), [(True, "native: int8 products of the CPU"), (False, EXACT_INTEGERS)])
def test_integers_are_multiplied_by_the_cpu_or_exactly_by_the_blas(
    monkeypatch: pytest.MonkeyPatch, has: bool, words: str
) -> None:
    monkeypatch.setattr(sys.modules["narrowgauge.nn.explain"], "multiplies_bytes", lambda: has)
    gemms = ng.explain(ng.convert(nn.Sequential(nn.Linear(16, 8)), "int8_switchback")).rows[0].gemms
    assert gemms["fprop"].runs == words


def test_one_layer_and_no_layer() -> None:
    assert [row.name for row in ng.explain(ng.convert(nn.Linear(4, 4))).rows] == [""]
    assert ng.explain(nn.ReLU()).rows == ()
    assert "0 layers quantised" in str(ng.explain(nn.ReLU()))


@pytest.mark.parametrize("plan", RECIPES.values(), ids=lambda plan: plan.name)
def test_every_recipe_is_explained(plan: ng.Recipe) -> None:
    (row,) = ng.explain(ng.convert(nn.Linear(32, 16), plan)).rows
    if plan.quantized:
        assert list(row.gemms) == ["fprop", "dgrad", "wgrad"]
        assert all(info.operands and info.runs for info in row.gemms.values())
    else:
        assert row.reason == f"recipe {plan.name!r} quantises nothing"


def test_layers_of_codes_and_of_qat_are_explained() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 32))
    ng.nn.quantize_for_inference(model, "int4/1x32")
    rows = ng.explain(model).rows
    assert [row.name for row in rows] == ["0", "2"]
    assert rows[0].gemms["fprop"].operands == "none x int4/1x32"
    assert rows[0].code_bytes == model[0].nbytes

    trained = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 32))
    ng.nn.prepare_qat(trained, "lsq")
    first = ng.explain(trained).rows[0]
    assert first.recipe == "qat lsq"
    assert "LSQWeight(bits=4" in first.gemms["fprop"].operands

    adapted = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 32))
    ng.nn.add_lora(adapted, base="nf4")
    assert [row.name for row in ng.explain(adapted).converted] == ["0.base", "2.base"]


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module, got list"):
        ng.explain([])  # type: ignore[arg-type]
