from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from narrowgauge.train import METHODS, Effect, Method, PublishedMethod, get_method, paired_effect, register


@pytest.fixture
def registry() -> Iterator[dict[str, type[PublishedMethod]]]:
    """The register without any method, put back afterwards."""
    before = dict(METHODS)
    METHODS.clear()
    yield METHODS
    METHODS.clear()
    METHODS.update(before)


def published(**fields: Any) -> type[PublishedMethod]:
    def experiment(cls: type[PublishedMethod]) -> Effect:
        return paired_effect("loss", [1.0, 2.0], [2.0, 3.0])

    described = {
        "name": "lottery",
        "summary": "prunes",
        "paper": "A paper",
        "experiment": classmethod(experiment),
    }
    return type("Lottery", (PublishedMethod,), described | fields)


def test_every_hook_of_the_base_class_changes_nothing() -> None:
    method, model, batch = Method(), nn.Linear(2, 2), {"labels": torch.zeros(1)}
    before = model.weight.detach().clone()
    assert method.surgery(model) == (model, None)
    assert method.parameter_groups(model, []) == []
    assert method.transform(batch, 0, torch.Generator()) is batch
    assert method.lr_factor(3) == 1.0
    assert method.loss(model, batch) is None
    assert method.evaluate(model, lambda _: {"val_loss": 1.0}) == {}
    method.attach(model)
    method.begin_step(model, 0)
    method.gradient(model, 0)
    method.post_step(model, 0, None)
    method.load_state_dict(method.state_dict())
    assert torch.equal(model.weight, before)
    assert model.weight.grad is None


def test_overrides_tells_own_hooks_from_inherited_ones() -> None:
    class Halved(Method):
        def lr_factor(self, step: int) -> float:
            return 0.5

    assert Halved.overrides("lr_factor")
    assert not Halved.overrides("loss")


def test_a_registered_method_is_found_by_name(registry: dict[str, type[PublishedMethod]]) -> None:
    cls = register(published())
    assert registry == {"lottery": cls}
    assert get_method("lottery") is cls
    assert cls.experiment().difference == -1.0


def test_an_unknown_name_lists_the_nearest(registry: dict[str, type[PublishedMethod]]) -> None:
    with pytest.raises(ValueError, match="unknown method 'x'; nearest: none is registered"):
        get_method("x")
    register(published())
    register(published(name="zzz"))
    with pytest.raises(ValueError, match=r"name: unknown method 'lotery'; nearest: lottery$"):
        get_method("lotery")
    with pytest.raises(ValueError, match=r"nearest: lottery, zzz$"):
        get_method("ema2")


def test_a_name_can_be_taken_only_once(registry: dict[str, type[PublishedMethod]]) -> None:
    register(published())
    with pytest.raises(ValueError, match="name: 'lottery' is already the name of Lottery"):
        register(published())


@pytest.mark.parametrize("field", ["name", "summary", "paper"])
def test_a_method_says_what_and_whose_it_is(registry: dict[str, type[PublishedMethod]], field: str) -> None:
    with pytest.raises(ValueError, match=f"{field}: method class Lottery has none"):
        register(published(**{field: ""}))


def test_a_method_shows_its_effect(registry: dict[str, type[PublishedMethod]]) -> None:
    with pytest.raises(ValueError, match=r"experiment: method 'lottery' has no experiment\(\)"):
        register(published(experiment=PublishedMethod.__dict__["experiment"]))
    assert not registry
