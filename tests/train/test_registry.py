from collections.abc import Iterator
from typing import Any

import pytest

from narrowgauge.train import (
    METHODS,
    Claim,
    Context,
    Experiment,
    Procedure,
    Published,
    PublishedMethod,
    get_method,
    get_published,
    register,
)
from narrowgauge.train.registry import hooks_of

Registry = dict[str, type[Published]]


@pytest.fixture
def registry() -> Iterator[Registry]:
    """The register without any method, put back afterwards."""
    before = dict(METHODS)
    METHODS.clear()
    yield METHODS
    METHODS.clear()
    METHODS.update(before)


def published(**fields: Any) -> type[PublishedMethod]:
    def experiment(cls: type[PublishedMethod]) -> Experiment:
        return Experiment("a setting", (Claim("loss", "a", "b"),), lambda context: {"a": 1.0, "b": 2.0})

    described = {
        "name": "lottery",
        "summary": "prunes",
        "paper": "A paper",
        "experiment": classmethod(experiment),
    }
    return type("Lottery", (PublishedMethod,), described | fields)


def test_a_registered_method_is_found_by_name(registry: Registry) -> None:
    cls = register(published())
    assert registry == {"lottery": cls}
    assert get_method("lottery") is cls
    assert cls.experiment().run(Context(0)) == {"a": 1.0, "b": 2.0}


def test_an_unknown_name_lists_the_nearest(registry: Registry) -> None:
    with pytest.raises(ValueError, match="unknown method 'x'; nearest: none is registered"):
        get_method("x")
    register(published())
    register(published(name="zzz"))
    with pytest.raises(ValueError, match=r"name: unknown method 'lotery'; nearest: lottery$"):
        get_method("lotery")
    with pytest.raises(ValueError, match=r"nearest: lottery, zzz$"):
        get_method("ema2")


def test_a_name_can_be_taken_only_once(registry: Registry) -> None:
    register(published())
    with pytest.raises(ValueError, match="name: 'lottery' is already the name of Lottery"):
        register(published())


@pytest.mark.parametrize("field", ["name", "summary", "paper"])
def test_a_method_says_what_and_whose_it_is(registry: Registry, field: str) -> None:
    with pytest.raises(ValueError, match=f"{field}: method class Lottery has none"):
        register(published(**{field: ""}))


def test_a_method_shows_its_effect(registry: Registry) -> None:
    with pytest.raises(ValueError, match=r"experiment: method 'lottery' has no experiment\(\)"):
        register(published(experiment=Published.__dict__["experiment"]))
    assert not registry


def procedure(registry: Registry) -> type[Procedure]:
    described = {"name": "cycle", "summary": "cycles", "paper": "A paper", "hooks": ("phases",)}
    experiment = vars(published())["experiment"]
    return register(type("Cycle", (Procedure,), described | {"experiment": experiment}))


def test_a_procedure_is_found_and_is_no_plug_in(registry: Registry) -> None:
    cls = procedure(registry)
    assert get_published("cycle") is cls
    with pytest.raises(ValueError, match="'cycle' is a procedure, it is not plugged into a run"):
        get_method("cycle")


def test_hooks_are_those_that_a_plug_in_overrides_and_those_that_a_procedure_names(registry: Registry) -> None:
    def hook(self: object, *args: object) -> None:
        return None

    own = {"loss": hook, "attach": hook, "state_dict": hook}
    assert hooks_of(published(**own)) == ("attach", "loss")
    assert hooks_of(procedure(registry)) == ("phases",)
