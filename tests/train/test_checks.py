from typing import Any

import pytest

from narrowgauge.train import BatchStream, ByteCorpus
from narrowgauge.train.checks import check_settings

RIGHT: dict[str, Any] = {
    "grad_accumulation": 1,
    "clip_norm": None,
    "eval_every": 0,
    "save_every": 0,
    "save_path": None,
    "keep": 1,
    "stops_early": False,
    "monitored": False,
    "parallel": None,
}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grad_accumulation": 0}, "grad_accumulation: expected at least 1, got 0"),
        ({"keep": 0}, "keep: expected at least 1, got 0"),
        ({"clip_norm": float("nan")}, "clip_norm: expected a number above 0 or None, got nan"),
        ({"save_every": -1, "save_path": "x"}, r"save_every: expected 0 \(never\) or more, got -1"),
        ({"save_path": "x"}, "save_path: expected together with save_every"),
        ({"stops_early": True}, "early_stopping: expected together with eval_every above 0"),
        ({"parallel": "fsdp2", "monitored": True}, "monitor: cannot measure weights that are in shards"),
    ],
)
def test_the_first_setting_that_does_not_fit_is_named(
    corpus: ByteCorpus, settings: dict[str, Any], message: str
) -> None:
    data = BatchStream(corpus, batch_size=1, seq_len=4, validation_batches=1)
    check_settings(data, **RIGHT)
    with pytest.raises(ValueError, match=message):
        check_settings(data, **{**RIGHT, **settings})


def test_what_is_no_source_is_refused() -> None:
    with pytest.raises(TypeError, match="data: expected a BatchSource such as BatchStream"):
        check_settings([1], **RIGHT)
