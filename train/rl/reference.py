"""A frozen copy of the model as it was when the run began: what policies are kept near to."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from narrowgauge.train.restore import restore_model
from narrowgauge.train.rl.logprobs import token_logprobs


class Reference:
    """A copy of ``model`` in evaluation mode, without gradients. Its weights belong into a checkpoint, since the
    model that a resumed run begins with need not be the one that the run began with."""

    def __init__(self, model: nn.Module) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def token_logprobs(self, input_ids: Tensor, labels: Tensor) -> Tensor:
        """[B, T] float32, see :func:`narrowgauge.train.rl.logprobs.token_logprobs`."""
        return token_logprobs(self.model, input_ids, labels)

    def state_dict(self) -> dict[str, Any]:
        """The copy's weights."""
        return dict(self.model.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over saved weights; ``ValueError`` when they are of another model."""
        restore_model(self.model, state)
