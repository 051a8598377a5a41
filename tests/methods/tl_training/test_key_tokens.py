import pytest

from narrowgauge.methods.tl_training import OTHER, PARA, PRE, classes, name_positions, value_ends

TOOLS = ("list_max", "list_min", "list_mean", "str_len")


def test_key_positions_are_the_first_letter_and_where_names_part() -> None:
    assert name_positions("list_max", TOOLS) == [0, 6]
    assert name_positions("list_min", TOOLS) == [0, 6]
    assert name_positions("str_len", TOOLS) == [0]


def test_a_name_without_a_shared_first_letter_adds_nothing() -> None:
    assert name_positions("list_max", ["list_max", "upper", "str_len"]) == [0]


def test_a_sole_tool_has_its_first_letter_alone() -> None:
    assert name_positions("list_max", ["list_max"]) == [0]
    assert name_positions("list_max", []) == [0]


def test_a_name_that_begins_another_parts_at_its_parenthesis() -> None:
    assert name_positions("list", ["list", "list_all"]) == [0, 4]
    assert name_positions("list_all", ["list", "list_all"]) == [0, 4]
    assert classes(b"list()", ["list", "list_all"])[4] == PRE


def test_the_number_of_positions_can_be_capped() -> None:
    tools = ["abcd", "abce", "abd", "ac"]
    assert name_positions("abcd", tools) == [0, 1, 2, 3]
    assert name_positions("abcd", tools, 2) == [0, 1]
    with pytest.raises(ValueError, match="max_pre: expected None or at least 1, got 0"):
        classes(b"abcd()", tools, 0)


@pytest.mark.parametrize(
    ("call", "ends"),
    [
        ("f(a=[3,9,4])", "]"),
        ("f(a=[3,9], b='x')", "]'"),
        ("f(a='x,y)')", "'"),
        ("f(a={'k': (1, 2)} , bb=12)", "}2"),
        ("f()", ""),
        ("f( )", ""),
        ("f(a=1", ""),
        (r"f(a='it\'s, so', b=7)", "'7"),
    ],
)
def test_values_end_in_front_of_their_delimiters(call: str, ends: str) -> None:
    assert "".join(call[end] for end in value_ends(call)) == ends


def test_classes_of_a_whole_reply() -> None:
    reply = b"list_max(a=[3,9,4])\n"
    found = classes(reply, TOOLS)
    assert [index for index, kind in enumerate(found) if kind == PRE] == [0, 6]
    assert [index for index, kind in enumerate(found) if kind == PARA] == [reply.index(b"]")]
    assert len(found) == len(reply)
    assert found.count(OTHER) == len(reply) - 3


def test_positions_are_those_of_bytes() -> None:
    reply = "f(a='ü')".encode()
    assert classes(reply, ["f"]).index(PARA) == reply.index(b"')")


def test_a_reply_that_is_no_call_has_no_key_tokens() -> None:
    assert set(classes(b"It is 9.\n", TOOLS)) == {OTHER}
    assert classes(b"", TOOLS) == []
