import pytest

from narrowgauge.methods.tl_training import parse


def test_a_call_is_read_whatever_its_quotes_and_spaces() -> None:
    plain, other = parse("f(a=[1,2],b='x')"), parse(' f( b="x", a=[1, 2])\n')
    assert plain is not None
    assert other is not None
    assert plain.name == "f"
    assert plain.values == other.values


def test_other_values_differ() -> None:
    assert parse("f(a=1)") != parse("f(a=True)")
    assert parse("f(a=[1,2])") != parse("f(a=[2,1])")


def test_a_call_without_parameters() -> None:
    found = parse("f()")
    assert found is not None
    assert found.values == {}


@pytest.mark.parametrize(
    "text",
    ["", "f", "f(", "f(1)", "f(a=b)", "f(**x)", "f.g(a=1)", "f(a=1, a=2)", "f(a='\\d'", "\0", "f(a=1)(b=2)", "("],
)
def test_what_is_no_call(text: str) -> None:
    assert parse(text) is None


def test_odd_escapes_do_not_warn() -> None:
    assert parse("f(a='\\d')") is not None


def test_depth_does_not_crash() -> None:
    assert parse("f(a=" + "(" * 5000 + ")" * 5000 + ")") is None
