import pytest
import torch
from torch import nn

from narrowgauge.train import default_groups
from narrowgauge.train.method import ParameterGroup
from narrowgauge.train.optimizers import check_parameters, one_group_each, set_learning_rate


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1, bias=False))


def test_default_groups_decay_matrices_only() -> None:
    decayed, kept = default_groups(network())
    assert [name for name, _ in decayed["params"]] == ["0.weight", "2.weight"]
    assert [name for name, _ in kept["params"]] == ["0.bias", "1.weight", "1.bias"]
    assert "weight_decay" not in decayed
    assert kept["weight_decay"] == 0.0


def test_default_groups_leave_out_frozen_parameters_and_empty_groups() -> None:
    model = network()
    for parameter in model[:2].parameters():
        parameter.requires_grad_(False)
    groups = default_groups(model)
    assert [[name for name, _ in group["params"]] for group in groups] == [["2.weight"]]


def test_an_optimizer_of_exactly_the_trainable_parameters_is_accepted() -> None:
    model = network()
    model[0].weight.requires_grad_(False)
    check_parameters(model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1))


def test_a_forgotten_parameter_is_named() -> None:
    model = network()
    with pytest.raises(ValueError, match=r"optimizer: 4 trainable parameters are not in it, first '0.bias'"):
        check_parameters(model, torch.optim.SGD([next(model.parameters())], lr=0.1))


def test_a_foreign_parameter_is_refused() -> None:
    model = network()
    optimizer = torch.optim.SGD([*model.parameters(), nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(ValueError, match=r"optimizer: 1 of its parameters are not \(or no longer\) trainable"):
        check_parameters(model, optimizer)


def test_the_schedules_rate_is_scaled_by_factor_and_group() -> None:
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    groups: list[ParameterGroup] = [{"params": [a]}, {"params": [b], "lr_scale": 0.1}]
    optimizer = torch.optim.SGD(groups, lr=7.0)
    assert set_learning_rate(optimizer, 2.0, 0.5) == 1.0
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1.0, 0.1])


def test_without_a_schedule_each_group_keeps_its_first_rate() -> None:
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    groups: list[ParameterGroup] = [{"params": [a], "lr": 4.0}, {"params": [b]}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    for factor in (0.5, 0.25):
        set_learning_rate(optimizer, None, factor)
    assert [group["lr"] for group in optimizer.param_groups] == [1.0, 0.25]


def test_a_rate_that_is_a_tensor_stays_that_tensor() -> None:
    rate = torch.tensor(1.0)
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=rate, foreach=False, capturable=True)
    set_learning_rate(optimizer, 0.25, 1.0)
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == 0.25


def test_one_group_each_keeps_the_settings() -> None:
    groups = one_group_each(default_groups(network()))
    assert [[name for name, _ in group["params"]] for group in groups] == [
        ["0.weight"], ["2.weight"], ["0.bias"], ["1.weight"], ["1.bias"],
    ]  # fmt: skip
    assert ["weight_decay" in group for group in groups] == [False, False, True, True, True]


def test_scales_by_name_multiply_on_top_and_are_not_what_is_logged() -> None:
    groups: list[ParameterGroup] = [
        {"params": [("a", nn.Parameter(torch.zeros(1)))], "lr_scale": 0.5},
        {"params": [("b", nn.Parameter(torch.zeros(1)))]},
        {"params": [("c", nn.Parameter(torch.zeros(1)))]},
    ]
    optimizer = torch.optim.SGD(groups, lr=7.0)
    assert set_learning_rate(optimizer, 2.0, 1.0, {"a": 0.0, "b": 3.0}) == 1.0
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 6.0, 2.0]
    assert set_learning_rate(optimizer, 2.0, 1.0, {}) == 1.0
    assert [group["lr"] for group in optimizer.param_groups] == [1.0, 2.0, 2.0]
    with pytest.raises(ValueError, match="lr_scales: 'd' is not a parameter of the optimizer"):
        set_learning_rate(optimizer, 2.0, 1.0, {"b": 1.0, "d": 1.0})


def test_scales_need_the_names() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(ValueError, match="its groups have to keep the names"):
        set_learning_rate(optimizer, 1.0, 1.0, {"w": 2.0})
