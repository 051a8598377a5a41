"""Policies: names, scheme texts, and what is refused."""

from __future__ import annotations

import pytest

from narrowgauge.nn import POLICIES, ActivationPolicy, get_policy


@pytest.mark.parametrize("name", POLICIES)
def test_names_give_their_policies(name: str) -> None:
    assert get_policy(name) is POLICIES[name]
    assert POLICIES[name].name == name
    assert POLICIES[name].source


def test_scheme_text_holds_for_everything() -> None:
    policy = get_policy("e4m3fn/1x32")
    assert {policy.scheme(consumer) for consumer in ("linear", "attention", "nonlinear")} == {"e4m3fn/1x32"}


def test_policy_is_taken_as_it_is() -> None:
    mine = ActivationPolicy(name="mine", linear="int8")
    assert get_policy(mine) is mine
    assert mine.scheme("nonlinear") is None


@pytest.mark.parametrize("name", ["int9", "cot", "int8_exact", "int8", "e4m3fn", "int8/1x128+sr"])
def test_unknown_names_and_schemes_say_what_is_accepted(name: str) -> None:
    if name == "int8":
        assert get_policy(name).linear == "int8/1x128"  # the policy of this name, not the scheme
        return
    with pytest.raises(
        ValueError, match=rf"policy: got '{name.replace('+', '.')}'; .*accepted: int8, fp8, mxint8, .*coat"
    ):
        get_policy(name)


def test_near_names_are_suggested() -> None:
    with pytest.raises(ValueError, match="nearest: coat"):
        get_policy("coatt")


def test_wrong_type_is_named() -> None:
    with pytest.raises(TypeError, match="policy: expected a name, a scheme text or an ActivationPolicy, got int"):
        get_policy(8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nonlinear": "int8"}, "nonlinear: got 'int8', in which several tokens share a scale"),
        ({"linear": "int16"}, "linear: got 'int16' of 16 bits"),
        ({"attention": "int8/row+sr"}, "attention: got 'int8/row.sr', accepted: schemes that round to nearest"),
        ({"min_elements": -1}, "min_elements: expected 0 or more, got -1"),
        ({"exact": "Softmax"}, "exact: expected a collection of names, got the string 'Softmax'"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ActivationPolicy(name="mine", **settings)


def test_linear_inputs_may_share_one_scale() -> None:
    assert ActivationPolicy(name="mine", linear="e4m3fn").linear == "e4m3fn"
