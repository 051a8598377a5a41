"""Many roots at once."""

import torch

from narrowgauge.priors.roots import roots


def test_each_element_finds_its_own_root() -> None:
    goal = torch.linspace(0.01, 30, 500, dtype=torch.float64)
    found = roots(lambda x: x.exp() - goal, torch.full_like(goal, -20.0), torch.full_like(goal, 20.0))
    assert torch.allclose(found, goal.log(), rtol=0, atol=2e-12)


def test_flat_and_steep_functions_are_solved_in_few_steps() -> None:
    calls = []

    def f(x: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return torch.stack([x[0] ** 9, (x[1] - 0.3).sign(), 1e9 * (x[2] - 0.7)])

    low = torch.tensor([-1.0, -1.0, -1.0], dtype=torch.float64)
    found = roots(f, low, torch.tensor([3.0, 3.0, 3.0], dtype=torch.float64))
    assert abs(float(found[0])) < 1e-3
    assert abs(float(found[1]) - 0.3) < 1e-12
    assert abs(float(found[2]) - 0.7) < 1e-12
    assert len(calls) < 102


def test_without_a_change_of_sign_the_better_end_is_the_answer() -> None:
    a, b = torch.tensor([1.0, -3.0], dtype=torch.float64), torch.tensor([2.0, -1.0], dtype=torch.float64)
    assert roots(lambda x: x, a, b).tolist() == [1.0, -1.0]


def test_a_root_at_an_end_is_found() -> None:
    a, b = torch.tensor([0.0], dtype=torch.float64), torch.tensor([2.0], dtype=torch.float64)
    assert roots(lambda x: x, a, b).tolist() == [0.0]
