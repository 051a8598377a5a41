from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from narrowgauge.train import BatchStream, Method
from narrowgauge.train.compose import MethodStack
from narrowgauge.train.data import Batch, BatchSource


class Named(Method):
    def __init__(self, name: str, **fields: Any) -> None:
        self.__dict__.update(name=name, **fields)


class OwnLoss(Named):
    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        return torch.tensor(3.0), {"extra": 1.0}


class OwnSource(Named):
    def source(self, data: BatchSource) -> BatchSource:
        return data


class Renames(Named):
    def surgery(self, model: nn.Module) -> tuple[nn.Module, dict[str, str]]:
        old, new = self.__dict__["old"], self.__dict__["new"]
        return nn.ModuleDict({new: next(model.children())}), {f"{old}.weight": f"{new}.weight"}


class Noise(Named):
    def transform(self, batch: Batch, step: int, rng: torch.Generator) -> Batch:
        return {**batch, self.name: torch.rand(3, generator=rng)}


@pytest.mark.parametrize("cls", [OwnLoss, OwnSource])
def test_two_methods_that_replace_the_same_thing_are_refused_by_name(cls: type[Named]) -> None:
    hook = "loss" if cls is OwnLoss else "source"
    with pytest.raises(ValueError, match=f"methods: mft and dpo both replace the {hook}; use one of them"):
        MethodStack([cls("mft"), Named("other"), cls("dpo")])
    MethodStack([OwnLoss("mft"), OwnSource("dpo")])


def test_a_method_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="methods: 'ema' is given twice"):
        MethodStack([Named("ema"), Named("ema")])


def test_a_method_without_what_it_needs_is_refused() -> None:
    with pytest.raises(ValueError, match=r"methods: 'a' needs 'b', which is not among \['a'\]"):
        MethodStack([Named("a", needs=("b",))])
    MethodStack([Named("a", needs=("b",)), Named("b")])


def test_methods_that_conflict_are_refused() -> None:
    with pytest.raises(ValueError, match="methods: 'a' and 'b' cannot be combined"):
        MethodStack([Named("b"), Named("a", conflicts=("b",))])


def test_what_is_no_method_is_refused() -> None:
    with pytest.raises(TypeError, match="methods: expected instances of Method, got 'ema'"):
        MethodStack(["ema"])  # type: ignore[list-item]


def test_an_unnamed_method_goes_by_its_class() -> None:
    assert MethodStack([Method()]).names == ("Method",)


def test_the_replaced_loss_is_used() -> None:
    loss, metrics = MethodStack([Named("a"), OwnLoss("mft")]).loss(nn.Identity(), {})
    assert (loss.item(), metrics) == (3.0, {"extra": 1.0})


def test_name_maps_of_two_surgeries_are_chained() -> None:
    stack = MethodStack([Renames("first", old="a", new="b"), Renames("second", old="b", new="c")])
    model, renamed = stack.surgery(nn.ModuleDict({"a": nn.Linear(2, 2, bias=False)}))
    assert renamed == {"a.weight": "c.weight"}
    assert list(model.state_dict()) == ["c.weight"]


def test_a_name_map_to_what_is_not_there_is_refused() -> None:
    class Wrong(Named):
        def surgery(self, model: nn.Module) -> tuple[nn.Module, dict[str, str]]:
            return model, {"weight": "gone"}

    with pytest.raises(ValueError, match="methods: 'wrong' maps to 'gone', which its model does not have"):
        MethodStack([Wrong("wrong")]).surgery(nn.Linear(2, 2))


def test_transforms_draw_from_seed_step_micro_batch_and_their_own_name() -> None:
    stack = MethodStack([Noise("a"), Noise("b")])
    first = stack.transform({}, 0, 0, 0)
    assert torch.equal(first["a"], stack.transform({}, 0, 0, 0)["a"])
    others = [first["b"], *(stack.transform({}, *where)["a"] for where in [(1, 0, 0), (0, 1, 0), (0, 0, 1)])]
    assert not any(torch.equal(first["a"], other) for other in others)
    # Another method in the run does not change what this one draws.
    assert torch.equal(first["b"], MethodStack([Noise("b")]).transform({}, 0, 0, 0)["b"])


def test_factors_multiply_and_metrics_join(make_stream: Callable[..., BatchStream]) -> None:
    class Halved(Named):
        def lr_factor(self, step: int) -> float:
            return 0.5

        def evaluate(self, model: nn.Module, evaluate: Callable[[nn.Module], dict[str, float]]) -> dict[str, float]:
            return {f"{self.name}_val_loss": evaluate(model)["val_loss"] + 1}

    stack = MethodStack([Halved("a"), Halved("b")])
    assert stack.lr_factor(0) == 0.25
    assert stack.evaluate(nn.Identity(), lambda _: {"val_loss": 1.0}) == {
        "a_val_loss": 2.0,
        "b_val_loss": 2.0,
    }
    data = make_stream()
    assert stack.source(data) is data


def test_state_goes_back_to_the_method_that_gave_it_and_to_no_other_run() -> None:
    class Counter(Named):
        count = 0

        def state_dict(self) -> dict[str, Any]:
            return {"count": self.count}

        def load_state_dict(self, state: Any) -> None:
            self.count = state["count"]

    first, second = Counter("a"), Counter("b")
    first.count, second.count = 3, 4
    saved = MethodStack([first, second]).state_dict()
    fresh = [Counter("a"), Counter("b")]
    MethodStack(fresh).load_state_dict(saved)
    assert [method.count for method in fresh] == [3, 4]
    with pytest.raises(ValueError, match=r"methods: the saved run had \['a', 'b'\], this one has \['a'\]"):
        MethodStack([Counter("a")]).load_state_dict(saved)


def test_scales_of_several_methods_multiply() -> None:
    class Scaled(Named):
        def lr_scales(self, step: int) -> dict[str, float]:
            return {"w": 0.5, self.name: float(step)}

    assert MethodStack([Scaled("a"), Named("c"), Scaled("b")]).lr_scales(3) == {"w": 0.25, "a": 3.0, "b": 3.0}
    assert MethodStack([Named("c")]).lr_scales(0) == {}


def test_old_values_are_copies_and_only_where_they_are_wanted() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    assert MethodStack([Named("a")]).old_values(model) is None
    old = MethodStack([Named("a", needs_old_params=True)]).old_values(model)
    assert old is not None
    assert list(old) == ["weight"]
    assert torch.equal(old["weight"], model.weight)
    assert old["weight"].data_ptr() != model.weight.data_ptr()
