"""The logits of the next token of several sequences that grow by one token at a time, with and without a cache."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from narrowgauge.train.kv_cache import KVCache

# Any token does where nothing looks: in padding, and after the end of a completion.
_FILLER = 0


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters, else its buffers, are; the CPU for a model without either."""
    first = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """The model in eval mode; every module gets the mode it had, also after an error."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


class CachedDecoder:
    """Computes one column a token: prompts padded on the left, their keys and values kept."""

    def __init__(self, model: nn.Module, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        self._model, self._device = model, device_of(model)
        longest = max(map(len, prompts))
        padding_N = torch.tensor([longest - len(prompt) for prompt in prompts])
        ids_NT = torch.full((len(prompts), longest), _FILLER)
        for index, prompt in enumerate(prompts):
            ids_NT[index, longest - len(prompt) :] = torch.tensor(prompt)
        self._cache = KVCache(longest + max_new_tokens - 1, padding_N.to(self._device))
        self._next_ids_NT = ids_NT.to(self._device)

    def logits(self) -> Tensor:
        """Logits [N, V] of the next token of each sequence; once for each token."""
        logits_NTV = self._model(self._next_ids_NT, cache=self._cache)
        return logits_NTV[:, -1]

    def append(self, tokens_N: Tensor) -> None:
        """Each sequence grows by its token."""
        self._next_ids_NT = tokens_N[:, None].to(self._device)


class FullDecoder:
    """Computes the whole sequences for every token: padded on the right, where causal attention does not look."""

    def __init__(self, model: nn.Module, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        self._model, device = model, device_of(model)
        self._ends_N = torch.tensor([len(prompt) for prompt in prompts], device=device)
        self._longest = max(map(len, prompts))
        self._rows_N = torch.arange(len(prompts), device=device)
        ids_NT = torch.full((len(prompts), self._longest + max_new_tokens), _FILLER)
        for index, prompt in enumerate(prompts):
            ids_NT[index, : len(prompt)] = torch.tensor(prompt)
        self._ids_NT = ids_NT.to(device)

    def logits(self) -> Tensor:
        """Logits [N, V] of the next token of each sequence."""
        logits_NTV = self._model(self._ids_NT[:, : self._longest])
        return logits_NTV[self._rows_N, self._ends_N - 1]

    def append(self, tokens_N: Tensor) -> None:
        """Each sequence grows by its token."""
        self._ids_NT[self._rows_N, self._ends_N] = tokens_N.to(self._ids_NT.device)
        self._ends_N += 1
        self._longest += 1
