"""Methods inside a run: what each hook sees and changes."""

import math
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from narrowgauge.train import (
    Llama,
    LlamaConfig,
    Method,
    Trainer,
)
from narrowgauge.train.data import Batch
from narrowgauge.train.method import ParameterGroup

MakeTrainer = Callable[..., Trainer]
Weights = Callable[[Trainer], Tensor]


class Recorder(Method):
    """Notes every hook that is called."""

    name = "recorder"
    needs_old_params = True

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.moved = math.nan

    def attach(self, model: nn.Module) -> None:
        self.calls.append("attach")

    def lr_factor(self, step: int) -> float:
        self.calls.append(f"lr_factor {step}")
        return 1.0

    def begin_step(self, model: nn.Module, step: int) -> None:
        self.calls.append(f"begin_step {step}")

    def transform(self, batch: Batch, step: int, rng: torch.Generator) -> Batch:
        self.calls.append("transform")
        return batch

    def loss(self, model: nn.Module, batch: Batch) -> None:
        self.calls.append("loss")

    def gradient(self, model: nn.Module, step: int) -> None:
        self.calls.append("gradient")
        assert all(p.grad is not None for p in model.parameters())

    def post_step(self, model: nn.Module, step: int, old: Mapping[str, Tensor] | None) -> None:
        self.calls.append("post_step")
        assert old is not None
        self.moved = max((p - old[name]).abs().max().item() for name, p in model.named_parameters())


def test_hooks_are_called_in_the_documented_order(make_trainer: MakeTrainer) -> None:
    recorder = Recorder()
    trainer = make_trainer(methods=[recorder], grad_accumulation=2)
    trainer.fit(1)
    step = ["lr_factor 0", "transform", "transform", "begin_step 0", "loss", "loss", "gradient", "post_step"]
    assert recorder.calls == ["attach", *step]
    assert 0 < recorder.moved < 0.1


def test_methods_that_only_watch_change_no_bit(weights: Weights, make_trainer: MakeTrainer) -> None:
    plain, watched = make_trainer(), make_trainer(methods=[Recorder()])
    for trainer in (plain, watched):
        trainer.fit(3)
    assert torch.equal(weights(plain), weights(watched))


def test_a_method_changes_the_gradient_before_clipping(weights: Weights, make_trainer: MakeTrainer) -> None:
    class Zeroed(Method):
        def gradient(self, model: nn.Module, step: int) -> None:
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.grad.zero_()

    model = Llama(LlamaConfig.preset("tiny"))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    trainer = make_trainer(model=model, optimizer=optimizer, methods=[Zeroed()])
    before = weights(trainer)
    assert trainer.fit(1)["grad_norm"] == 0.0
    assert torch.equal(weights(trainer), before)


def test_two_methods_that_replace_the_loss_are_refused_when_the_trainer_is_built(
    make_trainer: MakeTrainer,
) -> None:
    class Other(Recorder):
        name = "other"

    with pytest.raises(ValueError, match="methods: recorder and other both replace the loss"):
        make_trainer(methods=[Recorder(), Other()])


def test_surgery_and_groups_come_before_the_optimizer_is_built(make_trainer: MakeTrainer) -> None:
    class Bias(Method):
        def surgery(self, model: nn.Module) -> tuple[nn.Module, None]:
            assert isinstance(model, Llama)
            model.lm_head.bias = nn.Parameter(torch.zeros(256))
            return model, None

        def parameter_groups(self, model: nn.Module, groups: list[ParameterGroup]) -> list[ParameterGroup]:
            return [{**group, "lr_scale": 0.0} if "weight_decay" in group else group for group in groups]

    trainer = make_trainer(optimizer=lambda groups: torch.optim.AdamW(groups, lr=0.1), methods=[Bias()])
    trainer.fit(2)
    assert isinstance(trainer.model, Llama)
    names = trainer.optimizer.param_groups[1]["param_names"]
    assert "lm_head.bias" in names
    assert torch.equal(trainer.model.lm_head.bias, torch.zeros(256))  # its group's rate is scaled to 0
    assert torch.equal(trainer.model.norm.weight, torch.ones(16))


def test_a_ready_optimizer_is_refused_when_a_method_regroups(make_trainer: MakeTrainer) -> None:
    class Regroups(Method):
        def parameter_groups(self, model: nn.Module, groups: list[ParameterGroup]) -> list[ParameterGroup]:
            return groups

    with pytest.raises(ValueError, match=r"optimizer: 'Regroups' changes the parameter groups.* got a ready AdamW"):
        make_trainer(methods=[Regroups()])


def test_a_ready_optimizer_is_refused_when_surgery_replaced_its_parameters(make_trainer: MakeTrainer) -> None:
    class NewHead(Method):
        def surgery(self, model: nn.Module) -> tuple[nn.Module, None]:
            assert isinstance(model, Llama)
            model.lm_head = nn.Linear(16, 256, bias=False)
            return model, None

    with pytest.raises(ValueError, match=r"optimizer: 1 trainable parameters are not in it, first 'lm_head.weight'"):
        make_trainer(methods=[NewHead()])
