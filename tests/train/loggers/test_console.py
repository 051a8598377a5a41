import io

import pytest

from narrowgauge.train import ConsoleLogger

METRICS = {"loss": 2.34567, "tokens_per_s": 12345.6, "memory_bytes": 512 * 2**20, "lr": 0.1}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_console_writes_a_plain_line_every_n_steps_and_at_the_end() -> None:
    stream = io.StringIO()
    logger = ConsoleLogger("fp32", every=2, stream=stream)
    logger.start(0, 5)
    for step in range(1, 6):
        logger.log(step, METRICS)
    logger.stop()
    lines = stream.getvalue().splitlines()
    assert [line.split("  ")[1] for line in lines] == ["step 2/5", "step 4/5", "step 5/5"]
    assert lines[0] == "fp32  step 2/5  loss 2.3457  12,346 tokens/s  512 MiB"


def test_console_always_shows_an_evaluation() -> None:
    stream = io.StringIO()
    logger = ConsoleLogger(every=100, stream=stream)
    logger.start(0, 50)
    logger.log(3, {"loss": 1.0, "val_loss": 1.5, "ema_val_loss": 1.25})
    assert stream.getvalue() == "train  step 3/50  loss 1.0000  val_loss 1.5000  ema_val_loss 1.2500\n"


def test_console_shows_a_bar_in_a_terminal() -> None:
    stream = Terminal()
    logger = ConsoleLogger("fp8", stream=stream)
    logger.start(0, 4)
    for step in range(1, 5):
        logger.log(step, METRICS)
    logger.stop()
    assert "fp8" in stream.getvalue()
    assert "4/4" in stream.getvalue()
    assert "2.3457" in stream.getvalue()


def test_console_writes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    logger = ConsoleLogger(every=1)
    logger.start(0, 1)
    logger.log(1, METRICS)
    logger.stop()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "loss 2.3457" in captured.err


def test_a_console_interval_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="every: expected at least 1, got 0"):
        ConsoleLogger(every=0)
