"""Optimizers of other packages step where they are installed, and are refused by name where they are not."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from torch.nn import Parameter

from narrowgauge.bench.optim_peer_steps import PEERS


@pytest.mark.parametrize("name", PEERS)
def test_a_missing_package_is_the_reason(name: str) -> None:
    package = name.split()[0]
    if find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    with pytest.raises(ValueError, match="is not installed"):
        PEERS[name]([Parameter(torch.zeros(1))])
