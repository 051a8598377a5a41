import pytest

from narrowgauge.train import ConsoleLogger, History, JsonlLogger, Logger, Loggers
from narrowgauge.train.loggers import CsvLogger

METRICS = {"loss": 2.34567, "tokens_per_s": 12345.6, "memory_bytes": 512 * 2**20, "lr": 0.1}


@pytest.mark.parametrize(
    "logger", [History(), ConsoleLogger(), JsonlLogger("log.jsonl"), CsvLogger("log.csv"), Loggers()]
)
def test_every_logger_fulfils_the_protocol(logger: object) -> None:
    assert isinstance(logger, Logger)


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
