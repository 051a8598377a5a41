import pytest

from narrowgauge.methods.tl_training import looks_like_error, samples
from narrowgauge.train.tasks import Turn, conversations, has_error, is_error, render
from narrowgauge.train.tasks.tool_calls import ASSISTANT, TOOL, USER

FAILED = (
    Turn(USER, "get max of 3 9"),
    Turn(ASSISTANT, "list_mox(a=[3,9])"),
    Turn(TOOL, "error: list_mox is not defined"),
    Turn(ASSISTANT, "list_max(a=[3,9])"),
    Turn(TOOL, "9"),
)


def test_a_failed_call_is_context_and_never_a_target() -> None:
    (only,) = samples(FAILED)
    assert only.reply == b"list_max(a=[3,9])\n"
    assert b"list_mox(a=[3,9])\nT:error" in only.prompt
    assert only.prompt.endswith(b"\nA:")


def test_without_the_mask_every_call_is_a_target() -> None:
    assert [sample.reply for sample in samples(FAILED, mask_errors=False)] == [
        b"list_mox(a=[3,9])\n",
        b"list_max(a=[3,9])\n",
    ]


def test_conversations_without_errors_keep_every_call() -> None:
    for turns in conversations(30, seed=0, error_rate=0.0, requests=3):
        assert not has_error(turns)
        assert len(samples(turns)) == 3


def test_every_failed_call_of_the_task_is_found_by_its_phrases_too() -> None:
    for turns in conversations(200, seed=0, error_rate=0.5):
        assert samples(turns) == samples(turns, is_error=is_error)
        assert len(samples(turns)) == 1


def test_a_sample_is_a_piece_of_the_conversation() -> None:
    for sample in samples(FAILED, mask_errors=False):
        assert render(FAILED).encode().startswith(sample.prompt + sample.reply)


def test_the_last_turn_has_no_answer_and_is_kept() -> None:
    assert samples(FAILED[:-1])[-1].reply == b"list_max(a=[3,9])\n"


def test_a_turn_that_no_tool_answers_is_left_out_in_the_middle_of_a_conversation() -> None:
    chat = (Turn(USER, "hi"), Turn(ASSISTANT, "what?"), Turn(USER, "max of 1 2"), Turn(ASSISTANT, "list_max(a=[1,2])"))
    assert [sample.reply for sample in samples(chat)] == [b"list_max(a=[1,2])\n"]


@pytest.mark.parametrize("text", ["NameError: foo IS NOT DEFINED", "connection-error", "un expected_keyword 'x'"])
def test_phrases_are_found_whatever_case_and_punctuation(text: str) -> None:
    assert looks_like_error(text)


def test_the_predicate_can_be_replaced_where_a_good_answer_holds_a_phrase() -> None:
    turns = (Turn(USER, "look up"), Turn(ASSISTANT, "search()"), Turn(TOOL, "Format X is not supported by Y"))
    assert looks_like_error("9") is False
    assert samples(turns) == []
    assert len(samples(turns, is_error=lambda answer: answer.startswith("error"))) == 1
