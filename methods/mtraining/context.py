"""A model whose sequence is spread over processes: every rank runs it on the positions that it holds.

Everything but attention acts on each position alone, so that only two things change in a model: its attention becomes
a ring, and rotary angles are those of the positions in the whole sequence. Of a loss that is a sum over positions every
rank computes its share; gradients of the weights are then added up.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from narrowgauge.methods.mtraining.attention import attention_layers
from narrowgauge.methods.mtraining.ring import RingAttention
from narrowgauge.methods.mtraining.transport import Transport
from narrowgauge.train import Llama


def spread_context_(model: Llama, attend: RingAttention) -> Llama:
    """Make ``model`` one rank's part, in place: it then takes ``input_ids[:, positions[rank]]``, all of them.

    ``attend`` says which positions. Raises ``ValueError`` for more than the model has room for.
    """
    size = attend.positions.numel()
    if size > model.config.max_seq_len:
        raise ValueError(f"positions: expected at most max_seq_len={model.config.max_seq_len} in all, got {size}")
    mine = attend.positions[attend.transport.rank].to(model.cos_TD.device)
    model.cos_TD, model.sin_TD = model.cos_TD[mine], model.sin_TD[mine]
    for layer in attention_layers(model):
        layer.attend = attend
    return model


@torch.no_grad()
def add_gradients(parameters: Iterable[nn.Parameter], transport: Transport) -> None:
    """Every ``.grad`` becomes the sum over all ranks, the same bits on each."""
    for parameter in parameters:
        if parameter.grad is not None:
            total: Tensor = torch.stack(transport.gather(parameter.grad)).sum(dim=0)
            parameter.grad.copy_(total)
