"""Measurements of a model and its optimizer that the demo reports."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from narrowgauge.train import Llama, cross_entropy
from narrowgauge.train.data import Batch


def optimizer_state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of all tensors in the optimizer's state."""
    return sum(t.nbytes for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor))


def saved_for_backward(model: nn.Module, batch: Batch) -> int:
    """Bytes of memory that one forward of the loss keeps for its backward, each piece of memory once.

    Parameters are not counted: they are kept anyway. Tensors are what `torch.autograd.graph.saved_tensors_hooks` sees.
    """
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = cross_entropy(model, batch)
    total = sum(kept.values())
    del loss  # until here the graph held the memory, so that no address was used twice
    return total


@torch.no_grad()
def sample_text(
    model: nn.Module, prompt: str, *, device: torch.device, length: int = 200, temperature: float = 0.7, seed: int = 0
) -> str:
    """`prompt` continued by `length` bytes, drawn one by one; what is not printable text appears as "\\ufffd"."""
    if not isinstance(model, Llama):
        raise TypeError(f"model: expected a Llama, got {type(model).__name__}")
    window = model.config.max_seq_len
    generator = torch.Generator().manual_seed(seed)
    ids = torch.tensor(list(prompt.encode()), device=device)
    for _ in range(length):
        logits = model(ids[-window:].unsqueeze(0))[0, -1]
        chances = torch.softmax(logits.float().cpu() / temperature, dim=-1)
        drawn = torch.multinomial(chances, 1, generator=generator)
        ids = torch.cat((ids, drawn.to(device)))
    text = bytes(ids.tolist()).decode("utf-8", errors="replace")
    # A control character would reach the reader's terminal.
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
