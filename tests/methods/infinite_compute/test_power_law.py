import numpy as np
import pytest

from narrowgauge.methods.infinite_compute import PowerLaw, fit_power_law, is_falling

SIZES = [0.15, 0.3, 0.6, 1.4]
"""The paper's model sizes, in 1e9 parameters."""
PUBLISHED = PowerLaw(0.05, 1.02, 3.43)


@pytest.mark.parametrize("law", [PUBLISHED, PowerLaw(1.3, 0.3, 2.0), PowerLaw(20.0, 2.5, 0.1), PowerLaw(1e-3, 1, 3.0)])
@pytest.mark.parametrize("unit", [1.0, 1e9])
def test_exact_points_give_their_law_back(law: PowerLaw, unit: float) -> None:
    planted = PowerLaw(law.scale * unit**law.exponent, law.exponent, law.asymptote)
    x = [size * unit for size in SIZES]
    fit = fit_power_law(x, [planted(point) for point in x])
    assert fit.law.exponent == pytest.approx(law.exponent, rel=1e-4)
    assert fit.law.asymptote == pytest.approx(law.asymptote, abs=1e-4)
    assert fit.law.scale == pytest.approx(planted.scale, rel=1e-3)
    assert fit.residual < 1e-6
    assert fit.is_falling
    assert not fit.is_at_bound


def test_with_noise_of_3e_3_the_asymptote_is_off_by_some_7e_3() -> None:
    rng = np.random.default_rng(0)
    exact = np.array([PUBLISHED(size) for size in SIZES])
    found = [fit_power_law(SIZES, exact + 3e-3 * rng.standard_normal(4)).law.asymptote for _ in range(100)]
    assert np.mean(found) == pytest.approx(3.43, abs=2e-3)
    assert 5e-3 < np.std(found) < 9e-3
    assert np.quantile(np.abs(np.array(found) - 3.43), 0.68) < 8e-3


def test_the_covariance_tells_how_far_noise_moves_the_parameters() -> None:
    rng = np.random.default_rng(1)
    x = np.arange(1.0, 31.0)
    law, noise = PowerLaw(2.0, 0.7, 1.5), 1e-3
    exact = np.array([law(point) for point in x])
    fits = [fit_power_law(x.tolist(), (exact + noise * rng.standard_normal(30)).tolist()) for _ in range(40)]
    found = np.array([(fit.law.scale, fit.law.exponent, fit.law.asymptote) for fit in fits])
    told = np.mean([np.sqrt(np.diag(fit.covariance)) for fit in fits], axis=0)
    assert found.std(axis=0) == pytest.approx(told, rel=0.35)


def test_three_points_are_met_and_leave_the_covariance_open() -> None:
    fit = fit_power_law([1, 2, 4], [3.0, 2.5, 2.3])
    assert [fit.law(x) for x in (1, 2, 4)] == pytest.approx([3.0, 2.5, 2.3], abs=1e-4)
    assert np.isnan(fit.covariance).all()


def test_the_published_losses_of_the_standard_recipe_do_not_fall() -> None:
    standard = [3.8375, 3.7854, 3.7497, 3.7643]
    assert not is_falling(standard)
    assert not fit_power_law(SIZES, standard).is_falling
    assert is_falling(standard[:3])
    assert not is_falling([2.0, 2.0])


def test_the_floor_is_neither_negative_nor_above_the_smallest_loss() -> None:
    rising = fit_power_law([1, 2, 3, 4], [1.0, 1.1, 1.2, 1.3])
    assert not rising.is_falling
    assert rising.is_at_bound
    assert rising.law.asymptote == pytest.approx(1.0)
    straight_down = fit_power_law([1, 2, 3, 4], [4.0, 3.0, 2.0, 1.0])
    assert straight_down.law.asymptote >= 0
    for losses in ([4.0, 3.0, 2.0, 1.0], [2.0, 1.0, 1.5, 1.7], [1.0, 0.9, 0.9, 0.9]):
        law = fit_power_law([1, 2, 3, 4], losses).law
        assert law.scale >= 0
        assert 0 <= law.asymptote <= min(losses)


def test_equal_losses_are_a_law_without_a_slope() -> None:
    fit = fit_power_law([1, 2, 3, 4], [1.5, 1.5, 1.5, 1.5])
    assert [fit.law(x) for x in (1, 2, 100)] == pytest.approx([1.5] * 3)
    assert not fit.is_falling


def test_an_exponent_at_the_end_of_its_range_is_told() -> None:
    fast = PowerLaw(5.0, 6.0, 1.0)
    assert fit_power_law([1, 2, 3, 4], [fast(x) for x in (1, 2, 3, 4)]).is_at_bound
    assert not fit_power_law([1, 2, 3, 4], [fast(x) for x in (1, 2, 3, 4)], exponents=(0.05, 10)).is_at_bound


def test_the_inverse_is_exact_on_the_laws_own_points() -> None:
    for x in (0.01, 1.0, 37.0):
        assert PUBLISHED.inverse(PUBLISHED(x)) == pytest.approx(x, rel=1e-9)
    with pytest.raises(ValueError, match=r"loss: the law .* gives only losses above 3.43, got 3.43"):
        PUBLISHED.inverse(3.43)


@pytest.mark.parametrize(
    ("x", "losses", "message"),
    [
        ([1, 2], [2.0, 1.0], "x: expected at least three rising numbers"),
        ([1, 1, 2], [3.0, 2.0, 1.0], "x: expected at least three rising numbers"),
        ([0, 1, 2], [3.0, 2.0, 1.0], "x: expected at least three rising numbers"),
        ([1, 2, 3], [3.0, 2.0], "losses: expected 3 finite numbers"),
        ([1, 2, 3], [3.0, 2.0, float("nan")], "losses: expected 3 finite numbers"),
        ([1, 2, 3], [3.0, 2.0, 0.0], "losses: expected 3 finite numbers"),
    ],
)
def test_points_without_a_law_are_refused(x: list[float], losses: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_power_law(x, losses)


def test_a_range_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="exponents: expected 0 < low < high"):
        fit_power_law([1, 2, 3], [3.0, 2.0, 1.5], exponents=(2.0, 1.0))
