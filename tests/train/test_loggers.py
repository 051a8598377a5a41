import io
import json
import math
from pathlib import Path

import pytest

from narrowgauge.train import ConsoleLogger, History, JsonlLogger, Logger, Loggers

METRICS = {"loss": 2.34567, "tokens_per_s": 12345.6, "memory_bytes": 512 * 2**20, "lr": 0.1}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines_of(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("logger", [History(), ConsoleLogger(), JsonlLogger("log.jsonl"), Loggers()])
def test_every_logger_fulfils_the_protocol(logger: object) -> None:
    assert isinstance(logger, Logger)


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


def test_jsonl_writes_a_line_a_step_and_null_for_what_is_not_finite(tmp_path: Path) -> None:
    logger = JsonlLogger(tmp_path / "log.jsonl")
    logger.start(0, 2)
    logger.log(1, {"loss": 0.1})
    logger.log(2, {"loss": math.nan})
    logger.stop()
    assert lines_of(tmp_path / "log.jsonl") == [{"step": 1, "loss": 0.1}, {"step": 2, "loss": None}]


def test_jsonl_of_a_resumed_run_drops_the_steps_that_are_done_again(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.0}\n{"step": 3, "loss": 1.0}\n{"step": 4, "lo')
    logger = JsonlLogger(path)
    logger.start(2, 3)
    logger.log(3, {"loss": 0.5})
    logger.stop()
    assert [(line["step"], line["loss"]) for line in lines_of(path)] == [(1, 3.0), (2, 2.0), (3, 0.5)]


def test_jsonl_of_a_new_run_begins_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "loss": 3.0}\n')
    logger = JsonlLogger(path)
    logger.start(0, 1)
    logger.stop()
    assert path.read_text() == ""


@pytest.mark.parametrize("content", ["dear diary\n", "[1, 2]\n", '{"loss": 1}\n', "no newline", "\xff\xfe"])
def test_jsonl_never_replaces_a_file_that_is_no_log(tmp_path: Path, content: str) -> None:
    path = tmp_path / "diary"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=r"path: line 1 of .*diary is not a log's"):
        JsonlLogger(path).start(0, 1)
    assert path.read_text(encoding="latin-1") == content


def test_jsonl_needs_a_start(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="called before start"):
        JsonlLogger(tmp_path / "log").log(1, {})


def test_history_keeps_values_and_their_steps() -> None:
    history = History()
    history.start(0, 3)
    for step in (1, 2, 3):
        history.log(step, {"loss": float(step)} | ({"val_loss": 9.0} if step == 2 else {}))
    history.stop()
    assert history["loss"] == [1.0, 2.0, 3.0]
    assert (history["val_loss"], history.steps("val_loss")) == ([9.0], [2])
    with pytest.raises(KeyError, match="accuracy"):
        history["accuracy"]
    history.start(1, 3)
    assert history.steps("loss") == [1]


def test_several_loggers_get_the_same_numbers_and_cannot_change_them() -> None:
    class Vandal(History):
        def log(self, step: int, metrics: object) -> None:
            assert isinstance(metrics, dict)
            metrics.clear()

    history, metrics = History(), dict(METRICS)
    both = Loggers(Vandal(), history)
    both.start(0, 1)
    both.log(1, metrics)
    both.stop()
    assert metrics == METRICS
    assert history.records == [{"step": 1, **METRICS}]


def test_what_is_no_logger_is_refused() -> None:
    with pytest.raises(TypeError, match="logger: expected start, log and stop, got str"):
        Loggers("console")  # type: ignore[arg-type]


def test_a_console_interval_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="every: expected at least 1, got 0"):
        ConsoleLogger(every=0)
