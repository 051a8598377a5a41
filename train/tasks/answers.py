"""Answers that are worked out before they are given: ``reasoning#result``."""

RESULT = b"#"
"""Stands between the reasoning and the result, once."""


def reasoning_and_result(answer: bytes) -> tuple[bytes, bytes]:
    """What stands before and after the first ``#``; the result is empty where there is none."""
    reasoning, _, result = answer.partition(RESULT)
    return reasoning, result
