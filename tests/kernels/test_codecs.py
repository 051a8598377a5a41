"""The state codecs by name."""

from __future__ import annotations

import pytest

from narrowgauge.kernels.codecs import CODECS, first_moment, second_moment


@pytest.mark.parametrize(("name", "bytes_per_parameter"), [
    ("log8", 2 + 2 / 128 + 4 / 128), ("coat", 2.125), ("fp8", 2.03125), ("int8", 2.0625), ("dynamic8", 2.03125),
    ("flash", 2.25), ("bf16", 4.0), ("fp32", 8.0),
])  # fmt: skip
def test_codecs_take_the_stated_bytes(name: str, bytes_per_parameter: float) -> None:
    assert sum(codec.bytes_per_parameter for codec in CODECS[name]) == bytes_per_parameter


def test_unknown_codec_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"state: unknown codec 'dynamic'; nearest: dynamic8"):
        first_moment("dynamic")
    with pytest.raises(TypeError, match="state: expected the name"):
        second_moment(8)  # type: ignore[arg-type]
