"""Packed codes and stochastic bfloat16 of the in-place path."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from narrowgauge.kernels._codes_torch import narrow_codes, store_codes, store_stochastic
from narrowgauge.kernels._masters_reference import bfloat16
from narrowgauge.kernels._scratch_torch import Scratch, Stretch
from narrowgauge.kernels.codecs import first_moment, second_moment
from narrowgauge.kernels.moments import MomentCodec
from narrowgauge.kernels.packing import pack
from narrowgauge.kernels.random_words import halves


@pytest.mark.parametrize("codec", [first_moment("log4"), second_moment("log4"), second_moment("log8")])
def test_codes_come_back_as_they_were_stored(codec: MomentCodec) -> None:
    signed = codec.kind == "softsign"
    low, high = (-7, 8) if signed else (0, 1 << codec.bits)
    values = torch.arange(low, high).repeat(128)[:1024]
    scratch = Scratch(1024)
    codes = torch.empty(1024 // codec.per_byte, dtype=torch.uint8)
    store_codes(codec, values.float(), codes, scratch)
    if codec.per_byte > 1:
        assert torch.equal(codes, pack(values.to(torch.int8 if signed else torch.uint8), 4))
    narrow = narrow_codes(codec, codes, scratch.half)
    assert torch.equal(narrow.long(), values)


def test_stochastic_rounding_is_the_definitions() -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    x[:4] = torch.tensor([float("inf"), -float("inf"), float("nan"), 3.4e38])
    x[4] = torch.tensor(0x7FFFFFFF, dtype=torch.int32).view(torch.float32)  # a NaN of which a carry would make -0
    narrow = torch.empty(1000, dtype=torch.bfloat16)
    store_stochastic(x.clone(), narrow, Scratch(1000), [Stretch(0, 1000, 6, 99)])
    expected = bfloat16(x.numpy(), halves(1000, 99, 6))
    np.testing.assert_array_equal(narrow.float().numpy(), expected)
