"""Leverage score sampling: probabilities, no bias, and less variance than sampling alike."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from narrowgauge.formats.stages import Draw
from narrowgauge.nn import QuantLinear, recipe
from narrowgauge.nn.operand import dequantized, make_operand
from narrowgauge.nn.sampling import keep_probabilities, row_weights, sampled_rows, sampling_draws

CPU = torch.device("cpu")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=40), st.floats(0.05, 1.0))
def test_probabilities_are_proportional_up_to_one(scores: list[float], share: float) -> None:
    c = torch.tensor(scores, dtype=torch.float64)
    p = keep_probabilities(c, share)
    positive = int((c > 0).sum())
    assert ((p == 0) == (c == 0)).all()
    assert float(p.sum()) == pytest.approx(min(share * c.numel(), positive), abs=1e-5)
    below = (p < 1) & (p > 1e-3)
    if below.sum() > 1:
        ratio = (p / c)[below]
        assert float(ratio.max() / ratio.min()) < 1.001
    if below.any() and (p == 1).any():
        assert float(c[p == 1].min()) >= float(c[below].max())


def test_rows_that_are_not_finite_are_kept() -> None:
    p = keep_probabilities(torch.tensor([1.0, float("nan"), 2.0, float("inf")]), 0.5)
    assert p[1] == p[3] == 1.0


def gradient(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """dY with rows of many sizes, and X."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.exp(2.0 * torch.randn(48, 1, generator=generator))
    return torch.randn(48, 12, generator=generator) * sizes, torch.randn(48, 20, generator=generator)


def products(g: torch.Tensor, x: torch.Tensor, scores: torch.Tensor, calls: int = 600) -> torch.Tensor:
    draws = (sampling_draws(48, 0, call, CPU)[0][:48] for call in range(calls))
    return torch.stack([(g * row_weights(scores, 0.5, d)[:, None]).t() @ x for d in draws])


def test_estimate_has_no_bias_and_less_variance_than_sampling_alike() -> None:
    g, x = gradient()
    leverage = products(g, x, g.norm(dim=1) * x.norm(dim=1))
    alike = products(g, x, torch.ones(48))
    for samples in (leverage, alike):
        z = (samples.mean(0) - g.t() @ x) / (samples.std(0) / 600**0.5)
        assert float(z.abs().max()) < 5.5
    assert float(leverage.var(0).sum()) < 0.1 * float(alike.var(0).sum())


@pytest.mark.parametrize("slot", [None, "int8:static=1.0+sr+planes"])
def test_everything_kept_is_the_operand_itself(slot: str | None) -> None:
    g, _ = gradient()
    values = dequantized(make_operand(g, slot, Draw(1, 2)), torch.float32)
    kept = sampled_rows(values, slot, g, 1.0, sampling_draws(48, 0, 0, CPU)[0])
    torch.testing.assert_close(kept, values, rtol=1e-6, atol=1e-6)


def test_planes_are_sampled_one_by_one() -> None:
    g, _ = gradient()
    slot = "int8:static=1.0+sr+planes"
    values = dequantized(make_operand(g, slot, Draw(1, 2)), torch.float32)
    calls = [sampled_rows(values, slot, g, 0.5, sampling_draws(48, 0, i, CPU)[0]) for i in range(400)]
    samples = torch.stack(calls)
    error = samples.mean(0) - values
    assert float((error.abs() / (samples.std(0) / 20.0 + 1e-3)).max()) < 6.0
    # Rows below a sixteenth of the largest value have no upper plane, and half of all rows is more than is left over:
    # what is large is kept in both planes in every call.
    large = g.norm(dim=1).argmax()
    assert float(samples[:, large].std(0).max()) < 0.01 * float(g.abs().max())


def test_planes_vary_less_than_whole_rows() -> None:
    g, _ = gradient()
    slot = "int8:static=1.0+sr+planes"
    values = dequantized(make_operand(g, slot, Draw(1, 2)), torch.float32)
    spread = {}
    for name, text in (("planes", slot), ("rows", "int8+sr")):
        calls = [sampled_rows(values, text, g, 0.5, sampling_draws(48, 0, i, CPU)[0]) for i in range(200)]
        spread[name] = float(torch.stack(calls).var(0).sum())
    assert spread["planes"] < 0.5 * spread["rows"]


def test_layers_sample_both_gradients_without_bias() -> None:
    torch.manual_seed(0)
    g, x = gradient()
    layer = QuantLinear(20, 12, bias=False, recipe=recipe("half", sample=0.5))
    seen = []
    for _ in range(400):
        leaf = x.clone().requires_grad_()
        layer.weight.grad = None
        layer(leaf).backward(g)
        seen.append((leaf.grad, layer.weight.grad))
    for index, right in enumerate((g @ layer.weight.detach(), g.t() @ x)):
        samples = torch.stack([grads[index] for grads in seen])
        assert (samples.var(0).sum()) > 0
        z = (samples.mean(0) - right) / (samples.std(0) / 20.0 + 1e-3)
        assert float(z.abs().max()) < 6.0
    dropped = (seen[0][0] == 0).all(dim=1)
    assert 10 < int(dropped.sum()) < 40


def test_a_nan_is_not_dropped() -> None:
    layer = QuantLinear(20, 12, bias=False, recipe=recipe("few", sample=0.1))
    g, x = gradient()
    g[5, 3] = float("nan")
    leaf = x.clone().requires_grad_()
    layer(leaf).backward(g)
    assert leaf.grad is not None
    assert bool(leaf.grad[5].isnan().all())
    assert int(leaf.grad.isnan().any(dim=1).sum()) == 1


def test_no_tokens() -> None:
    layer = QuantLinear(20, 12, recipe=recipe("half", sample=0.5))
    x = torch.zeros(0, 20, requires_grad=True)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    assert not layer.weight.grad.any()


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5])
def test_shares_that_mean_nothing_are_refused(share: float) -> None:
    with pytest.raises(ValueError, match="sample: expected a share"):
        recipe("bad", sample=share)
