import pytest

from narrowgauge.train.tasks import reasoning_and_result


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (b"8+7=15;#085", (b"8+7=15;", b"085")),
        (b"#3", (b"", b"3")),
        (b"no result", (b"no result", b"")),
        (b"a#b#c", (b"a", b"b#c")),
    ],
)
def test_the_result_stands_behind_the_first_sign(answer: bytes, parts: tuple[bytes, bytes]) -> None:
    assert reasoning_and_result(answer) == parts
