import pytest
import torch

from narrowgauge.train.tasks import ill_conditioned_regression


def test_the_inputs_have_the_condition_that_was_asked_for() -> None:
    examples = ill_conditioned_regression(4000, seed=0, condition=1e3)
    inputs = examples.inputs.double()
    values = torch.linalg.eigvalsh(inputs.T @ inputs / 4000)
    assert (values[-1] / values[0]).item() == pytest.approx(1e3, rel=0.2)


def test_a_linear_model_explains_all_but_the_noise() -> None:
    examples = ill_conditioned_regression(2000, seed=0, noise=0.1)
    inputs, values = examples.inputs.double(), examples.labels.double()
    residual = values - inputs @ torch.linalg.lstsq(inputs, values).solution
    assert residual.std().item() == pytest.approx(0.1, rel=0.1)
    assert values.std().item() == pytest.approx(1, rel=0.1)


def test_a_condition_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="condition"):
        ill_conditioned_regression(1, seed=0, condition=0.5)
