import pytest

from narrowgauge.methods.infinite_compute import PowerLaw, data_efficiency, joint_limit


def test_the_joint_limit_takes_many_members_first_and_large_models_then() -> None:
    sizes, members = [0.15, 0.3, 0.6, 1.4], [1, 2, 3, 4, 5]
    outer = PowerLaw(0.06, 1.1, 3.17)
    losses = [[PowerLaw(0.2 / size**0.1, 1.0, outer(size))(count) for count in members] for size in sizes]
    found = joint_limit(sizes, members, losses)
    assert found.asymptote == pytest.approx(3.17, abs=1e-3)
    assert [fit.law.asymptote for fit in found.by_size] == pytest.approx([outer(size) for size in sizes], abs=1e-4)


def test_a_row_of_losses_for_each_size_is_needed() -> None:
    with pytest.raises(ValueError, match="losses: expected a row for each of 3 sizes, got 1"):
        joint_limit([1, 2, 3], [1, 2, 3], [[3.0, 2.0, 1.5]])


def test_efficiency_is_how_much_more_data_the_standard_recipe_needs() -> None:
    standard = PowerLaw(0.5, 0.4, 3.0)
    for times in (1.0, 2.29, 5.17):
        assert data_efficiency(standard, standard(0.2 * times), 0.2) == pytest.approx(times, rel=1e-9)


def test_a_loss_that_the_standard_recipe_never_reaches_has_no_efficiency() -> None:
    with pytest.raises(ValueError, match=r"loss: the law .* gives only losses above 3, got 2\.9"):
        data_efficiency(PowerLaw(0.5, 0.4, 3.0), 2.9, 0.2)
    with pytest.raises(ValueError, match="data: expected an amount above 0, got 0"):
        data_efficiency(PowerLaw(0.5, 0.4, 3.0), 3.1, 0.0)
