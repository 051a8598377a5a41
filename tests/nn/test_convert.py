"""convert and revert on models."""

from __future__ import annotations

import copy
import re
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import narrowgauge as ng
from narrowgauge.nn import SLOTS, QuantLinear, recipe


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


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(x)))


class Stack(nn.Module):
    """Six blocks, a stem and a head."""

    def __init__(self, blocks: int = 6) -> None:
        super().__init__()
        self.stem, self.lm_head = nn.Linear(8, 8), nn.Linear(8, 8)
        self.heads = nn.ModuleList(nn.Linear(8, 1) for _ in range(9))
        self.layers = nn.ModuleList(Block() for _ in range(blocks))


def converted(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, QuantLinear)}


STOCHASTIC = recipe("stochastic", **dict.fromkeys(SLOTS, "e4m3fn/row+sr"))


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


def test_tied_weights_stay_one_parameter_when_the_head_is_converted() -> None:
    model = ng.convert(Tied(), "fp8_row", skip=())
    assert isinstance(model.lm_head, QuantLinear)
    assert model.lm_head.weight is model.embed.weight
    model(torch.arange(12).reshape(2, 6)).square().sum().backward()
    assert model.embed.weight.grad is not None
    assert len(list(model.parameters())) == 4


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


def test_a_layer_itself_can_be_converted() -> None:
    layer = nn.Linear(4, 4)
    assert ng.convert(layer, "mxfp8") is layer
    assert type(layer) is QuantLinear
    assert type(ng.revert(layer)) is nn.Linear


def test_filter_and_skip_leave_layers_alone() -> None:
    model = ng.convert(Tied(), "fp8_row", filter_fn=lambda module, name: "up" in name or name == "again", skip=())
    assert converted(model) == {"block.up"}
    model = ng.convert(Tied(), "fp8_row", skip=("block.up", "lm_head"))
    assert converted(model) == {"block.down"}


def test_a_layer_with_two_names_is_left_alone_for_either() -> None:
    assert converted(ng.convert(Tied(), skip=("again",))) == {"block.down", "lm_head"}


@pytest.mark.parametrize(
    ("skip", "left"),
    [
        (("stem",), {"stem"}),
        (("*.up",), {f"layers.{i}.up" for i in range(6)}),
        (("layers.[0-1].*",), {f"layers.{i}.{part}" for i in (0, 1) for part in ("up", "down")}),
        ((re.compile(r"layers\.[45]\.down$"),), {"layers.4.down", "layers.5.down"}),
        (("2.up", "nothing"), {"layers.2.up"}),
        (("em",), set()),
    ],
)
def test_skip_takes_names_last_parts_globs_and_regular_expressions(skip: tuple[object, ...], left: set[str]) -> None:
    everything = {name for name, module in Stack().named_modules() if isinstance(module, nn.Linear)}
    assert everything - converted(ng.convert(Stack(), skip=skip)) == left


def test_overrides_give_other_recipes_and_the_first_match_counts() -> None:
    overrides = {"layers.0.up": None, "*.up": "mxfp8", re.compile("^layers"): STOCHASTIC, "lm_head": "int8_switchback"}
    model = ng.convert(Stack(), "fp8_row", overrides=overrides, keep_first=1)
    assert type(model.layers[0].up) is nn.Linear
    names = {name: module.recipe.name for name, module in model.named_modules() if isinstance(module, QuantLinear)}
    assert names["layers.1.up"] == "mxfp8"
    assert names["layers.0.down"] == names["layers.5.down"] == "stochastic"  # wins over keep_first
    assert names["lm_head"] == "int8_switchback"  # and over skip
    assert names["stem"] == "fp8_row"


@pytest.mark.parametrize(
    ("first", "last", "left"), [(1, 0, {0}), (0, 2, {4, 5}), (2, 1, {0, 1, 5}), (None, None, set())]
)
def test_first_and_last_blocks_stay_in_high_precision(first: int | None, last: int | None, left: set[int]) -> None:
    model = ng.convert(Stack(), keep_first=first, keep_last=last)
    assert {i for i, block in enumerate(model.layers) if type(block.up) is nn.Linear} == left
    assert isinstance(model.stem, QuantLinear)
    assert isinstance(model.heads[0], QuantLinear)  # more entries, fewer parameters


def test_kept_blocks_of_a_sequential_are_those_with_layers() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU())
    assert converted(ng.convert(model, keep_first=1, keep_last=1)) == {"2"}


def test_converting_again_changes_nothing_under_the_same_recipe() -> None:
    model = ng.convert(Tied(), STOCHASTIC)
    model(torch.arange(4).reshape(1, 4))
    before = copy.deepcopy(dict(model.block["up"].__dict__))
    ng.convert(model, STOCHASTIC)
    after = model.block["up"].__dict__
    assert before.keys() == after.keys()
    assert int(after["_buffers"]["rounding_step"]) == int(before["_buffers"]["rounding_step"]) > 0


def test_converting_again_changes_the_recipe_and_nothing_else() -> None:
    model = ng.convert(Tied(), STOCHASTIC)
    weight = model.block["up"].weight
    model(torch.arange(4).reshape(1, 4))
    ng.convert(model, recipe("other", x_fprop="int8/row+sr"))
    assert model.block["up"].recipe.name == "other"
    assert int(model.block["up"].rounding_step) == 2  # counts on
    ng.convert(model, "mxfp8", filter_fn=lambda module, name: name == "block.down")
    assert model.block["up"].recipe.name == "other"
    assert model.block["down"].recipe.name == "mxfp8"
    assert not model.block["down"]._buffers
    assert model.block["up"].weight is weight


def snapshot(model: nn.Module) -> list[object]:
    """Everything that torch and we know of the modules, by identity."""
    return [
        (name, type(module), id(module), sorted(module.__dict__), module.training,
         {key: (id(p), p.requires_grad) for key, p in module._parameters.items() if p is not None},
         {key: id(b) for key, b in module._buffers.items()}, set(module._non_persistent_buffers_set),
         {key: dict(hooks) for key, hooks in module.__dict__.items() if isinstance(hooks, OrderedDict)})
        for name, module in model.named_modules(remove_duplicate=False)
    ]  # fmt: skip


@pytest.mark.parametrize("plan", ["fp8_row", STOCHASTIC, "fp32"])
def test_revert_brings_back_everything(plan: object) -> None:
    model = Tied().eval()
    model.block["down"].train()
    model.block["up"].weight.requires_grad_(False)
    model.block["up"].note = "mine"
    model.block["up"].register_buffer("extra", torch.ones(1), persistent=False)
    model.block["up"].register_forward_pre_hook(lambda module, args, kwargs: None, with_kwargs=True)
    model.block["down"].register_full_backward_hook(lambda module, before, after: None)
    before = snapshot(model)
    ids = torch.arange(12).reshape(2, 6)
    expected = model(ids)
    ng.convert(model, plan)
    model(ids)
    assert ng.revert(model) is model
    assert snapshot(model) == before
    assert torch.equal(model(ids), expected)
    assert ng.revert(model) is model


def test_revert_keeps_what_was_set_after_converting() -> None:
    model = ng.convert(Tied(), STOCHASTIC)
    model.block["up"].note = "mine"
    with torch.no_grad():
        model.block["up"].weight.fill_(2.0)
    ng.revert(model)
    assert model.block["up"].note == "mine"
    assert (model.block["up"].weight == 2.0).all()
    assert "rounding_step" not in model.state_dict()


def test_layers_built_as_quantised_ones_become_plain() -> None:
    model = nn.Sequential(QuantLinear(6, 5, recipe=STOCHASTIC), QuantLinear(5, 2, bias=False))
    state = {name: value for name, value in model.state_dict().items() if "rounding" not in name}
    ng.revert(model)
    assert [type(layer) for layer in model] == [nn.Linear, nn.Linear]
    assert model[0].__dict__.keys() == nn.Linear(6, 5).__dict__.keys()
    assert model.state_dict().keys() == state.keys()
    assert model(torch.ones(1, 6)).shape == (1, 2)


def test_hooks_stay_with_their_handles() -> None:
    model = Tied().eval()
    calls: list[str] = []
    handle = model.block["up"].register_forward_hook(lambda *args: calls.append("up"))
    keyed = model.block["down"].register_forward_hook(
        lambda m, args, kwargs, out: calls.append("down"), with_kwargs=True
    )
    ng.convert(model, "fp8_row")
    assert not model.block["up"].training
    model(torch.arange(4).reshape(1, 4))
    assert calls == ["up", "up", "down"]
    handle.remove()
    keyed.remove()
    model(torch.arange(4).reshape(1, 4))
    assert len(calls) == 3


def test_copies_and_files_of_a_converted_model_revert_too(tmp_path) -> None:
    model = ng.convert(Tied(), STOCHASTIC)
    torch.save(model, tmp_path / "model.pt")
    for other in (copy.deepcopy(model), torch.load(tmp_path / "model.pt", weights_only=False)):
        assert isinstance(other.block["up"], QuantLinear)
        ids = torch.arange(4).reshape(1, 4)
        assert torch.equal(other(ids), copy.deepcopy(model)(ids))
        ng.revert(other)
        assert converted(other) == set()
    assert converted(model) == {"block.up", "block.down"}


def test_a_model_without_memory_is_converted_first_and_filled_later() -> None:
    with torch.device("meta"):
        model = Tied()
    ng.convert(model, "fp8_row")
    assert model.block["up"].weight.is_meta
    model.to_empty(device="cpu")
    full = Tied()
    model.load_state_dict(full.state_dict())
    ids = torch.arange(12).reshape(2, 6)
    assert torch.equal(model(ids), ng.convert(full, "fp8_row")(ids))


class Loud(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


def odd_layers() -> nn.ModuleDict:
    patched = nn.Linear(4, 4)
    patched.forward = lambda x: x
    frozen = nn.Linear(4, 4)
    frozen.weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False)
    adapted = nn.ModuleDict({"base_layer": nn.Linear(4, 4), "lora_A": nn.ModuleDict({"default": nn.Linear(4, 2)})})
    return nn.ModuleDict(
        {
            "good": nn.Linear(4, 4),
            "loud": Loud(4, 4),
            "normed": parametrizations.weight_norm(nn.Linear(4, 4)),
            "pruned": prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.5),
            "attention": nn.MultiheadAttention(4, 2),
            "patched": patched,
            "integer": frozen,
            "lazy": nn.LazyLinear(4),
            "adapted": adapted,
        }
    )


ODD = {
    "loud": "a Loud, whose own forward",
    "normed": "parametrized",
    "pruned": "no parameter: pruned",
    "attention.out_proj": "nn.MultiheadAttention reads its weight and never calls it",
    "patched": "its forward was replaced",
    "integer": "weight dtype torch.int8",
    "lazy": "a LazyLinear",
    "adapted.lora_A.default": "lora_A: an adapter",
}


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_layers_that_are_no_plain_linears_are_left_alone_with_a_reason() -> None:
    model = odd_layers()
    before = snapshot(model)
    ng.convert(model)
    assert converted(model) == {"good", "adapted.base_layer"}
    rows = {row.name: row.reason for row in ng.explain(model).rows}
    for name, reason in ODD.items():
        assert reason in rows[name], name
    ng.revert(model)
    assert snapshot(model) == before


def test_an_error_leaves_the_model_as_it_was() -> None:
    model = Stack()
    before = snapshot(model)
    with pytest.raises(ValueError, match="names no layer"):
        ng.convert(model, overrides={"stem": "mxfp8", "steam": "mxfp8"})
    assert snapshot(model) == before


def wrapped() -> nn.Module:
    model = ng.convert(nn.Sequential(nn.Linear(2, 2)))
    model[0].__class__ = type("FSDPQuantLinear", (QuantLinear,), {})
    return model


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: ng.convert(Tied(), "fp8_tensors"), ValueError, "unknown name 'fp8_tensors'; nearest: fp8_tensor"),
        (lambda: ng.convert(Tied(), "fp8_row", skip="lm_head"), ValueError, "skip: expected a collection"),
        (lambda: ng.convert(Tied(), "fp8_row", skip=(3,)), TypeError, "skip: expected names, globs .* got 3"),
        (lambda: ng.convert(nn.Sequential(nn.ReLU())), ValueError, "no linear layer to convert"),
        (lambda: ng.convert(Tied(), filter_fn=lambda module, name: False), ValueError, "filter_fn said no"),
        (lambda: ng.convert(Tied(), layers=("linears",)), ValueError, "layers: got 'linears', accepted: .*linear"),
        (lambda: ng.convert(Tied(), layers="linear"), ValueError, "layers: got 'linear', accepted: a collection"),
        (lambda: ng.convert(Tied(), keep_first=1), ValueError, "no nn.ModuleList of several blocks"),
        (lambda: ng.convert(Stack(), keep_last=-1), ValueError, "keep_last: expected a number of blocks"),
        (lambda: ng.convert(Stack(), keep_first=6, filter_fn=lambda m, n: "layers" in n), ValueError, "filter_fn said"),
        (lambda: ng.convert(Tied(), overrides={"dwon": None}), ValueError, "'dwon' names no layer; near: down"),
        (lambda: ng.convert(Tied(), overrides={"embed": "mxfp8"}), ValueError, "'embed' names no layer"),
        (lambda: ng.convert(Tied(), overrides={"up": "mxfp9"}), ValueError, "unknown name 'mxfp9'"),
        (lambda: ng.convert(nn.ModuleList([Loud(2, 2), Block()]), overrides={"0": "mxfp8"}), ValueError, "0: a Loud"),
        (lambda: ng.revert(wrapped()), ValueError, "0 is a FSDPQuantLinear; revert before"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()


class Mixed(nn.Module):
    """Convolutions, a table and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.over = nn.Embedding(12, 4, padding_idx=0), nn.Conv1d(4, 8, 3, padding=1, groups=2)
        self.patches, self.head = nn.Conv2d(1, 4, 2, stride=2, padding_mode="circular", padding=1), nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        h = self.embed(ids)
        h = h + self.patches(h.unsqueeze(1)).mean(dim=(2, 3)).unsqueeze(1)
        return self.head(self.over(h.transpose(1, 2)).transpose(1, 2))


def test_convolutions_and_tables_are_converted_when_asked_for_and_brought_back() -> None:
    torch.manual_seed(0)
    model, ids = Mixed(), torch.arange(12).reshape(2, 6)
    before, expected = snapshot(model), model(ids)
    ng.convert(model)
    assert {row.name: bool(row.gemms) for row in ng.explain(model).rows} == {
        "over": False,
        "patches": False,
        "head": True,
    }
    assert 'layers=("conv",)' in ng.explain(model).rows[0].reason
    ng.convert(model, layers=("conv", "embedding"))
    kinds = {row.name: (row.kind, *row.gemms) for row in ng.explain(model).rows}
    assert kinds == {
        "embed": ("embedding", "lookup"),
        "over": ("conv", "fprop", "dgrad", "wgrad"),
        "patches": ("conv", "fprop", "dgrad", "wgrad"),
        "head": ("linear", "fprop", "dgrad", "wgrad"),
    }
    quantised = model(ids)
    assert not torch.equal(quantised, expected)
    torch.testing.assert_close(quantised, expected, rtol=0.1, atol=0.1)
    quantised.square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in model.parameters())
    model.zero_grad()
    ng.revert(model)
    assert snapshot(model) == before
    assert torch.equal(model(ids), expected)


def test_a_recipe_that_a_layer_refuses_is_named_with_the_layer() -> None:
    model = Mixed()
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"embed: recipe: w_fprop=.* draws at random"):
        ng.convert(model, STOCHASTIC, layers=("linear", "embedding"))
    assert snapshot(model) == before
    ng.convert(model, STOCHASTIC, layers=("linear", "embedding"), overrides={"embed": "fp8_row"})
    assert model.embed.recipe.name == "fp8_row"


def test_a_recipe_keeps_its_blocks_where_there_are_any() -> None:
    plan = recipe("kept", every="e4m3fn/row", keep=(1, 2))
    assert {i for i, block in enumerate(ng.convert(Stack(), plan).layers) if type(block.up) is nn.Linear} == {0, 4, 5}
    assert {i for i, b in enumerate(ng.convert(Stack(), plan, keep_last=0).layers) if type(b.up) is nn.Linear} == {0}
    assert converted(ng.convert(Tied(), plan)) == {"block.up", "block.down"}
