import pytest

from narrowgauge.train.tasks import TOOLS, Call, is_error, parse_call, run_call


@pytest.mark.parametrize(
    ("call", "reply"),
    [
        ("list_max(a=[3,9,4])", "9"),
        ("list_min(a=[3,9,4])", "3"),
        ("list_mean(a=[3,9])", "6.0"),
        ("list_sum(a=[3,9,4])", "16"),
        ("list_len(a=[3,9,4])", "3"),
        ("str_len(a='abc')", "3"),
        ("str_upper(a='abc')", "ABC"),
        ("str_last(a='abc')", "c"),
        ("list_mox(a=[3,9])", "error: list_mox is not defined"),
        ("list_max(b=[3,9])", "error: unexpected keyword b"),
        ("list_max()", "error: missing argument a"),
        ("list_max(a='abc')", "error: a is not a list"),
        ("str_len(a=[3])", "error: a is not a str"),
        ("list_max(a=[3,9]", "error: invalid syntax"),
        ("list_max(a=[])", "error: invalid syntax"),
    ],
)
def test_calls_are_carried_out(call: str, reply: str) -> None:
    assert run_call(call) == reply
    assert is_error(reply) is reply.startswith("error:")


def test_a_call_has_three_parts() -> None:
    assert parse_call("str_len(a='xy')") == Call("str_len", "a", "'xy'")
    assert parse_call("str_len()") == Call("str_len", "", "")
    assert parse_call("list_max(a=[1]) ") is None


def test_names_share_prefixes() -> None:
    for prefix in ("list_", "list_m", "str_"):
        followers = {name[len(prefix) :][:1] for name in TOOLS if name.startswith(prefix)}
        assert len(followers) >= 2  # the names part right behind it
    assert len(TOOLS) == 8
    assert all(name == tool.name for name, tool in TOOLS.items())
