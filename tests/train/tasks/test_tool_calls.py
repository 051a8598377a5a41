from itertools import pairwise

import pytest

from narrowgauge.train.tasks import Turn, call_prompt, conversation_tokens, conversations, has_error, render, run_call
from narrowgauge.train.tokens import decode

FAILED = (
    Turn("user", "get max of 3 9 4"),
    Turn("assistant", "list_mox(a=[3,9,4])"),
    Turn("tool", "error: list_mox is not defined"),
    Turn("assistant", "list_max(a=[3,9,4])"),
    Turn("tool", "9"),
)


def test_the_format_is_what_it_says() -> None:
    assert render(FAILED[:2]) == "U:get max of 3 9 4\nA:list_mox(a=[3,9,4])\n"
    assert call_prompt(FAILED[:1]) == b"U:get max of 3 9 4\nA:"
    assert has_error(FAILED)
    assert not has_error(FAILED[:2])


def test_every_token_knows_its_turn() -> None:
    tokens, owners = conversation_tokens(FAILED)
    assert decode(tokens) == render(FAILED)
    for index, turn in enumerate(FAILED):
        own = [token for token, owner in zip(tokens, owners, strict=True) if owner == index]
        assert decode(own) == f"{turn.text}\n"
    assert owners.count(-1) == 2 * len(FAILED)


def test_replies_are_what_the_tools_say_and_an_error_is_followed_by_the_right_call() -> None:
    for turns in conversations(300, seed=0, requests=2):
        for call, reply in pairwise(turns):
            if call.role == "assistant":
                assert reply == Turn("tool", run_call(call.text))
        for index, turn in enumerate(turns):
            if turn.role == "tool" and turn.text.startswith("error:"):
                assert turns[index + 1].role == "assistant"
                assert not turns[index + 2].text.startswith("error:")
        assert turns[-1].role == "tool"
        assert [turn.role for turn in turns].count("user") == 2


def test_errors_have_their_rate_and_all_kinds() -> None:
    found = conversations(1000, seed=0, error_rate=0.4)
    assert sum(map(has_error, found)) == pytest.approx(400, abs=78)  # 5 sigma
    errors = {turns[2].text.split(" ")[-2] for turns in found if has_error(turns)}
    assert errors >= {"not", "keyword", "argument"}
    assert not any(map(has_error, conversations(100, seed=0, error_rate=0.0)))


def test_one_request_fits_into_112_tokens() -> None:
    assert max(len(conversation_tokens(turns)[0]) for turns in conversations(3000, seed=0)) <= 112


def test_it_is_a_pure_function_of_the_seed() -> None:
    assert conversations(20, seed=0) == conversations(20, seed=0) != conversations(20, seed=1)


def test_impossible_rates_are_refused() -> None:
    with pytest.raises(ValueError, match="error_rate"):
        conversations(1, seed=0, error_rate=1.5)
