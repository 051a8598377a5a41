"""States: random streams, layouts, and updates of weights outside the fused step."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from narrowgauge.optim import AdamW
from optimizer_steps import gaussian


def with_gradient(p: Tensor, gradient: Tensor) -> nn.Parameter:
    parameter = nn.Parameter(p.clone())
    parameter.grad = gradient.clone().to(p.dtype)
    return parameter


def test_equal_seeds_give_equal_bits_and_other_seeds_others() -> None:
    def run(seed: int) -> Tensor:
        p = with_gradient(gaussian(500).bfloat16(), gaussian(500, seed=1))
        optimizer = AdamW([p], state="log8", master="sr", seed=seed)
        for _ in range(3):
            optimizer.step()
        return p.detach()

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_parameters_draw_from_streams_of_their_own() -> None:
    p, q = (with_gradient(gaussian(500).bfloat16(), gaussian(500, seed=1)) for _ in range(2))
    AdamW([{"params": [p]}, {"params": [q]}], master="sr").step()
    assert not torch.equal(p, q)


def test_positions_count_over_all_groups_and_grow_with_them() -> None:
    params = [nn.Parameter(torch.ones(2)) for _ in range(4)]
    optimizer = AdamW([{"params": params[:2]}, {"params": params[2:3]}])
    assert [optimizer.position(p) for p in params[:3]] == [0, 1, 2]
    optimizer.add_param_group({"params": params[3:]})
    assert optimizer.position(params[3]) == 3


@pytest.mark.parametrize("state", ["log8", "log4", "coat", "int4", "solo", "bf16_sr"])
def test_what_was_written_reads_back_the_same_after_a_copy(state: str) -> None:
    p = with_gradient(gaussian(20, 30), gaussian(20, 30, seed=1))
    optimizer = AdamW([p], state=state, seed=8)
    optimizer.step()
    twin = copy.deepcopy(optimizer)
    for one, other in zip(optimizer.moments(p), twin.moments(twin.param_groups[0]["params"][0]), strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)


@pytest.mark.parametrize("master", ["none", "sr", "residual"])
def test_apply_update_is_the_weight_update_of_the_fused_step(master: str) -> None:
    """SGD's fused step with the update as its gradient, lr 1 and no memory."""
    from narrowgauge.optim import SGD

    w, update = gaussian(700).bfloat16(), 1e-2 * gaussian(700, seed=1)
    p, q = with_gradient(w, update), with_gradient(w, update)
    fused = SGD([p], lr=1.0, momentum=1e-30, state="fp32", master=master, seed=5)
    apart = SGD([q], lr=1.0, momentum=1e-30, state="fp32", master=master, seed=5)
    fused.step()
    apart.state[q].update(apart.new_state(q, apart.param_groups[0]))
    with torch.no_grad():
        apart.apply_update(q, apart.param_groups[0], q.grad.float())  # type: ignore[union-attr]
    assert torch.equal(p, q)
    if master == "residual":
        difference = fused.state[p]["residual"].int() - apart.state[q]["residual"].int()
        assert difference.abs().max() <= 1
        assert (difference != 0).float().mean() < 0.01


def test_a_parameter_that_is_not_the_optimizers_is_named() -> None:
    with pytest.raises(KeyError, match="not the optimizer's"):
        AdamW([nn.Parameter(torch.ones(2))]).group_of(nn.Parameter(torch.ones(2)))
