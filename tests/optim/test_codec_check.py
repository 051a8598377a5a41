"""Named codecs as `check_optimizer` sees them: what the optimizer itself stores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from narrowgauge.kernels.codecs import CODECS
from narrowgauge.optim import AdamW
from narrowgauge.optim.codec_check import named_codec


@pytest.mark.parametrize("name", list(CODECS))
def test_moments_are_stored_as_the_optimizer_stores_them(name: str) -> None:
    """A first step with beta1 = beta2 = 0.5 leaves m = g / 2 and v = g² / 2, drawn as seed 0 says."""
    gradient = torch.randn(3, 300, generator=torch.Generator().manual_seed(1))
    parameter = torch.nn.Parameter(torch.zeros(3, 300))
    parameter.grad = gradient.clone()
    optimizer = AdamW([parameter], betas=(0.5, 0.5), state=name)
    optimizer.step()
    state: dict[str, Any] = optimizer.state[parameter]
    half = gradient.numpy() * np.float32(0.5)
    stored = named_codec(name).store(half, half * gradient.numpy())
    for (codes, scale), key in ((stored.m, "exp_avg"), (stored.v, "exp_avg_sq")):
        assert torch.equal(codes, state[key])
        assert (scale is None and f"{key}_scale" not in state) or torch.equal(scale, state[f"{key}_scale"])


@pytest.mark.parametrize("name", list(CODECS))
def test_seeds_matter_where_the_codec_says_so(name: str) -> None:
    codec = named_codec(name)
    x = np.random.default_rng(0).random(3000, dtype=np.float32) + np.float32(0.1)
    first, again, other = (codec.store(x, x, seed) for seed in (1, 1, 2))
    for which in (0, 1):
        assert torch.equal(first[which].codes, again[which].codes)
    differs = [not torch.equal(first[which].codes, other[which].codes) for which in (0, 1)]
    assert any(differs) == codec.stochastic


def test_what_is_read_back_has_the_shape_that_was_stored() -> None:
    for shape in ((), (0,), (5, 0, 3), (2, 130)):
        x = np.ones(shape, np.float32)
        m, v = named_codec(("coat", "int8")).load(named_codec(("coat", "int8")).store(x, x))
        assert m.shape == v.shape == shape
        np.testing.assert_allclose(m, x, rtol=1e-6)


def test_group_and_bytes_are_those_of_both_moments() -> None:
    codec = named_codec(("coat", "fp8"))
    assert not codec.stochastic
    assert codec.group == 256
    assert codec.bytes_per_parameter == 1 + 8 / 128 + 1 + 4 / 256
    assert codec.name == "coat/fp8"
    assert named_codec("coat").name == "coat"


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown codec 'cot'"):
        named_codec("cot")
    with pytest.raises(TypeError, match="expected the name of a codec"):
        named_codec(3)
