import dataclasses
from typing import Any

import pytest

from narrowgauge.train import LlamaConfig

VALID = LlamaConfig.preset("tiny")


def test_every_preset_is_valid_and_has_more_parameters_than_the_one_before() -> None:
    presets = [LlamaConfig.preset(name) for name in LlamaConfig.preset_names()]
    widths = [(config.dim, config.num_layers) for config in presets]
    assert len(widths) >= 3
    assert widths == sorted(widths)


def test_an_unknown_preset_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match=r"preset: unknown name 'dmeo'; did you mean 'demo'.*known: tiny, demo"):
        LlamaConfig.preset("dmeo")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 0}, "dim: expected an integer of at least 1, got 0"),
        ({"num_layers": 1.5}, "num_layers: expected an integer of at least 1, got 1.5"),
        ({"vocab_size": True}, "vocab_size: expected an integer of at least 1, got True"),
        ({"dim": 66}, "dim: expected num_heads=4 times an even head width"),
        ({"dim": 60}, "dim: expected num_heads=4 times an even head width"),
        ({"num_kv_heads": 3}, "num_kv_heads: expected a divisor of num_heads=4, got 3"),
        ({"rope_theta": 0.0}, "rope_theta: expected a finite number above 0, got 0.0"),
        ({"norm_eps": float("nan")}, "norm_eps: expected a finite number above 0, got nan"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(VALID, **change)
