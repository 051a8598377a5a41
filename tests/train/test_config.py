import dataclasses
from typing import Any

import pytest
import torch

from narrowgauge.train import Llama, LlamaConfig

VALID = LlamaConfig.preset("tiny")


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("tiny", 131_392),
        ("demo", 853_120),
        ("small", 4_852_992),
        ("medium", 20_322_816),
        ("base", 75_909_888),
        ("1b", 973_670_400),
    ],
)
def test_a_preset_has_the_number_of_parameters_that_it_is_said_to_have(name: str, count: int) -> None:
    with torch.device("meta"):
        assert Llama(LlamaConfig.preset(name)).num_parameters() == count
    assert f"``{name}``" in str(LlamaConfig.preset.__doc__)
    assert f"{count:,}" in str(LlamaConfig.preset.__doc__)


def test_the_largest_preset_is_llama_3_2_1b_but_for_the_vocabulary() -> None:
    with torch.device("meta"):
        model = Llama(LlamaConfig.preset("1b", vocab_size=128_256))
    assert model.num_parameters() == 1_235_814_400  # the published checkpoint's


def test_presets_are_named_smallest_first() -> None:
    presets = [LlamaConfig.preset(name) for name in LlamaConfig.preset_names()]
    widths = [(config.dim, config.num_layers) for config in presets]
    assert len(widths) == 6
    assert widths == sorted(widths)


def test_a_preset_may_be_changed() -> None:
    config = LlamaConfig.preset("tiny", vocab_size=260, max_seq_len=64)
    assert config == dataclasses.replace(VALID, vocab_size=260, max_seq_len=64)
    with pytest.raises(TypeError, match="vocabulary"):
        LlamaConfig.preset("tiny", vocabulary=260)
    with pytest.raises(ValueError, match="num_kv_heads: expected a divisor of num_heads=4, got 3"):
        LlamaConfig.preset("tiny", num_kv_heads=3)


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
