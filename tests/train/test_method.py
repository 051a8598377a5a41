import torch
from torch import nn

from narrowgauge.train import Method


def test_every_hook_of_the_base_class_changes_nothing() -> None:
    method, model, batch = Method(), nn.Linear(2, 2), {"labels": torch.zeros(1)}
    before = model.weight.detach().clone()
    assert method.surgery(model) == (model, None)
    assert method.parameter_groups(model, []) == []
    assert method.transform(batch, 0, torch.Generator()) is batch
    assert method.lr_factor(3) == 1.0
    assert method.loss(model, batch) is None
    assert method.evaluate(model, lambda _: {"val_loss": 1.0}) == {}
    method.attach(model)
    method.begin_step(model, 0)
    method.gradient(model, 0)
    method.post_step(model, 0, None)
    method.load_state_dict(method.state_dict())
    assert torch.equal(model.weight, before)
    assert model.weight.grad is None


def test_overrides_tells_own_hooks_from_inherited_ones() -> None:
    class Halved(Method):
        def lr_factor(self, step: int) -> float:
            return 0.5

    assert Halved.overrides("lr_factor")
    assert not Halved.overrides("loss")
