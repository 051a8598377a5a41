"""Against torch's own casts on the CPU: decode, and encode in the overflow mode that each type has."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from narrowgauge import formats
from narrowgauge.formats import Format
from oracles import differences, hard_inputs, same

TORCH = {
    "e4m3fn": (torch.float8_e4m3fn, "saturate"),
    "e5m2": (torch.float8_e5m2, "nonsaturating"),
    "e4m3fnuz": (torch.float8_e4m3fnuz, "nonsaturating"),
    "e5m2fnuz": (torch.float8_e5m2fnuz, "nonsaturating"),
    "e8m0fnu": (torch.float8_e8m0fnu, "nonsaturating"),
    "bf16": (torch.bfloat16, "nonsaturating"),
    "fp16": (torch.float16, "nonsaturating"),
}
INTEGERS = {8: torch.uint8, 16: torch.int16}


def torch_values(fmt: Format, codes: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    patterns = codes.astype(np.uint8 if fmt.bits == 8 else np.uint16).view(np.uint8 if fmt.bits == 8 else np.int16)
    return torch.from_numpy(patterns).view(dtype).float().double().numpy()


def torch_codes(fmt: Format, x: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    codes = torch.from_numpy(x).to(dtype).view(INTEGERS[fmt.bits]).numpy()
    return codes.view(np.uint8 if fmt.bits == 8 else np.uint16)


@pytest.mark.parametrize("name", TORCH)
def test_decode_equals_torch_on_every_code(name: str) -> None:
    fmt = formats.get(name)
    assert same(fmt.values(), torch_values(fmt, fmt.all_codes(), TORCH[name][0]))


@pytest.mark.parametrize("name", TORCH)
def test_codes_equal_torch_on_all_16_bit_inputs_around_every_value_and_on_a_million_more(name: str) -> None:
    fmt, (dtype, overflow) = formats.get(name), TORCH[name]
    x = hard_inputs(fmt)
    isnan = np.isnan(x)
    assert np.isnan(torch_values(fmt, torch_codes(fmt, x[isnan], dtype), dtype)).all()
    x = x[~isnan]
    if name == "e8m0fnu":  # the contradictions: ties, zero, negative numbers, and float32 subnormals
        x = x[(np.frexp(x)[0] != 0.75) & (x > 0) & ~((x > 2.0**-127) & (x < 2.0**-126))]
    expected = torch_codes(fmt, x, dtype)
    assert not differences(fmt.encode(x, overflow=overflow), expected, x)
