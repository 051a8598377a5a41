"""The figures of the page on priors can be made again."""

import pytest

from narrowgauge.bench import priors


def test_errors_of_fits_are_those_of_the_worst_sample() -> None:
    one, two = priors.fit_errors(count=20_000, seeds=1), priors.fit_errors(count=20_000, seeds=2)
    assert two.keys() == {(method, shape) for method in ("ratio", "mle") for shape in priors.SHAPES}
    for key, (of_shape, of_scale) in two.items():
        assert 0 < one[key][0] <= of_shape < 0.2
        assert 0 < one[key][1] <= of_scale
    assert one != two


@pytest.mark.parametrize("mode", ["decoupled", "in_loss"])
def test_the_own_time_is_a_part_of_the_step(mode: str) -> None:
    whole, own = priors.step_costs(None, mode, steps=3)
    assert 0 < own < whole
