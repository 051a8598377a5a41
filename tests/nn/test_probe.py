"""probe_operands: SQNR per slot on real tensors, without changing the numbers."""

from __future__ import annotations

import torch
from torch import nn

from narrowgauge.nn import SLOTS, QuantLinear, probe_operands


def test_probe_measures_each_slot_and_leaves_no_trace() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(QuantLinear(256, 64, recipe="fp8_tensor"), nn.ReLU(), QuantLinear(64, 8, recipe="fp8_tensor"))
    x = torch.randn(128, 256)
    model(x).square().sum().backward()
    grads = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    with probe_operands(model) as probe:
        model(x).square().sum().backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), grads, strict=True))
    table = probe.sqnr()
    assert set(table) == set(SLOTS)
    # Gaussian data: E4M3 31.5 dB, E5M2 25.6 dB (specified reference values, ± what small tensors allow).
    assert abs(table["w_fprop"]["mean"] - 31.5) < 1.0
    assert abs(table["g_dgrad"]["mean"] - 25.6) < 1.0
    assert table["x_fprop"]["min"] <= table["x_fprop"]["mean"]
    assert table["x_fprop"]["layer"] in {"0", "2"}
    model(x)
    assert probe.sqnr() == table


def test_high_precision_slots_are_not_listed() -> None:
    model = nn.Sequential(QuantLinear(16, 16, recipe="int8_switchback"))
    with probe_operands(model) as probe:
        model(torch.randn(4, 16, requires_grad=True)).sum().backward()
    assert set(probe.sqnr()) == {"x_fprop", "w_fprop", "g_dgrad", "w_dgrad"}
