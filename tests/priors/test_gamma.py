"""The gamma sampler against scipy's law."""

import pytest
import torch
from scipy import stats

from narrowgauge.priors.gamma import standard_gamma

CPU = torch.device("cpu")


@pytest.mark.parametrize("concentration", [1.0, 1.02, 1.5, 2.0, 4.3, 51.0])
def test_draws_follow_the_gamma_law(concentration):
    generator = torch.Generator().manual_seed(1)
    x = standard_gamma(concentration, 200_000, generator=generator, device=CPU)
    assert x.dtype == torch.float64
    assert stats.kstest(x.numpy(), stats.gamma(concentration).cdf).pvalue > 1e-3


def test_no_draw_is_left_without_acceptance():
    """Rejected candidates would show as negative numbers at concentration 1, where v < 0 is frequent."""
    x = standard_gamma(1.0, 1_000_000, generator=torch.Generator().manual_seed(2), device=CPU)
    assert (x > 0).all()
    assert x.isfinite().all()


@pytest.mark.parametrize("concentration", [0.99, -1.0, float("nan")])
def test_small_concentrations_are_refused(concentration):
    with pytest.raises(ValueError, match=r"concentration: got .*accepted: numbers >= 1"):
        standard_gamma(concentration, 1, generator=None, device=CPU)
