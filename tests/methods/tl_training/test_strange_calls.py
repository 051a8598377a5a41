from narrowgauge.methods.tl_training import parse
from narrowgauge.methods.tl_training.strange_calls import strange_calls
from narrowgauge.train.tasks import TOOLS


def test_they_are_calls_of_no_tool_with_the_value_that_was_told() -> None:
    train, held_out = strange_calls(100, 20, seed=0)
    assert (train, held_out) == strange_calls(100, 20, seed=0)
    for example in (*train, *held_out):
        told, start = example.prompt.decode().split("\nA:")
        call = parse(start + example.answer.decode())
        assert call is not None
        assert call.name not in TOOLS
        value = example.answer.decode().strip("[]')\n").replace(",", " ")
        assert told.endswith(f" of {value}")
        assert len(example.prompt + example.answer) <= 52
