"""Completions of prompts: greedy, or sampled with a temperature and from the ``top_k`` likeliest tokens.

A token is drawn from ``softmax(logits / temperature)``, restricted to the ``top_k`` largest logits and
renormalised; temperature 0 takes the largest logit (of equal ones the first).

With a KV cache each token costs one position: prompts of different lengths are padded on the left
(:mod:`narrowgauge.train.kv_cache`). Without one, the whole sequence is computed for every token, padded on the
right, where causal attention does not look. Both give the same completions, up to ties within rounding; for a
converted model this holds under recipes that scale activations by row or in blocks within a row, while a scale
of the whole tensor depends on which positions are computed together.
"""

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from narrowgauge.train.data import Batch
from narrowgauge.train.decoding import CachedDecoder, FullDecoder, device_of, eval_mode
from narrowgauge.train.loss import IGNORED_LABEL
from narrowgauge.train.tokens import EOS, PAD


@dataclass(frozen=True, slots=True)
class Rollouts:
    """Sampled completions as training data, on the model's device; row n continues prompt ``n // num_samples``.

    ``ids`` [N, T] int64 is prompt and completion, without the last token, padded on the right. ``labels`` [N, T]
    int64 is the token after each: -100 on prompt and padding, so only the completion, with its ``eos``, is
    labelled. ``lengths`` [N] int64 is the number of labelled tokens of each row.
    """

    ids: Tensor
    labels: Tensor
    lengths: Tensor

    def batch(self) -> Batch:
        """As a batch of the trainer: ``input_ids`` and ``labels``."""
        return {"input_ids": self.ids, "labels": self.labels}

    def completions(self, eos: int | None = EOS) -> list[list[int]]:
        """The completion of each row, without ``eos``."""
        rows = [row[row != IGNORED_LABEL].tolist() for row in self.labels.cpu()]
        return [_without_eos(row, eos) for row in rows]


def generate(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    eos: int | None = EOS,
    generator: torch.Generator | None = None,
    use_cache: bool = True,
) -> list[list[int]]:
    """A completion of each of ``prompts`` (token numbers, any lengths), without the prompt and without ``eos``.

    A completion ends at ``eos`` (``None``: no token ends it) or after ``max_new_tokens``. A ``temperature`` above
    0 needs a ``generator``; the draws of a row do not depend on the texts of the others. ``model`` maps
    ``input_ids`` [B, T] to logits [B, T, V], causally; it computes in eval mode and gets its modes back. With
    ``use_cache`` it must take a ``cache`` too, as :class:`~narrowgauge.train.model.Llama` does.

    Raises ``ValueError`` for empty prompts, a temperature without a generator, sequences longer than
    ``model.config.max_seq_len`` (where there is one), and a model that takes no cache.
    """
    rows = _complete(model, prompts, max_new_tokens, temperature, top_k, eos, generator, use_cache)
    return [_without_eos(row, eos) for row in rows]


def sample(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    num_samples: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    eos: int | None = EOS,
    generator: torch.Generator | None = None,
    use_cache: bool = True,
    padding: int = PAD,
) -> Rollouts:
    """``num_samples`` completions of each prompt, those of one prompt in a row, as :class:`Rollouts`.

    ``padding`` is the token that fills ``ids`` on the right. The other arguments and errors are those of
    :func:`generate`.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples: expected at least 1, got {num_samples}")
    repeated = [prompt for prompt in prompts for _ in range(num_samples)]
    rows = _complete(model, repeated, max_new_tokens, temperature, top_k, eos, generator, use_cache)
    num_columns = max((len(prompt) + len(row) for prompt, row in zip(repeated, rows, strict=True)), default=1) - 1
    ids_NT = torch.full((len(rows), num_columns), padding, dtype=torch.int64)
    labels_NT = torch.full_like(ids_NT, IGNORED_LABEL)
    for index, (prompt, row) in enumerate(zip(repeated, rows, strict=True)):
        whole, end = torch.tensor([*prompt, *row]), len(prompt) + len(row) - 1
        ids_NT[index, :end] = whole[:-1]
        labels_NT[index, len(prompt) - 1 : end] = whole[len(prompt) :]
    lengths_N = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    device = device_of(model)
    return Rollouts(ids_NT.to(device), labels_NT.to(device), lengths_N.to(device))


@torch.no_grad()
def _complete(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    eos: int | None,
    generator: torch.Generator | None,
    use_cache: bool,
) -> list[list[int]]:
    """The completion of each prompt, with the ``eos`` that ended it."""
    _check(model, prompts, max_new_tokens, temperature, top_k, generator, use_cache)
    if not prompts:
        return []
    completions: list[list[int]] = [[] for _ in prompts]
    open_rows = set(range(len(prompts)))
    with eval_mode(model):
        decoder = (CachedDecoder if use_cache else FullDecoder)(model, prompts, max_new_tokens)
        for step in range(max_new_tokens):
            tokens_N = _choose(decoder.logits(), temperature=temperature, top_k=top_k, generator=generator)
            chosen = tokens_N.tolist()
            for row in open_rows:
                completions[row].append(chosen[row])
            open_rows = {row for row in open_rows if chosen[row] != eos}
            if not open_rows:
                break
            if step < max_new_tokens - 1:
                decoder.append(tokens_N)
    return completions


def _choose(logits_NV: Tensor, *, temperature: float, top_k: int | None, generator: torch.Generator | None) -> Tensor:
    """One token [N] int64 for each row of logits; drawn on the generator's device, which the result is on then."""
    if temperature == 0:
        return logits_NV.argmax(-1)
    assert generator is not None  # `_check` asks for it
    logits_NV = logits_NV.to(generator.device, torch.float32) / temperature
    if top_k is not None and top_k < logits_NV.shape[-1]:
        largest = logits_NV.topk(top_k, dim=-1)
        logits_NV = torch.full_like(logits_NV, -torch.inf).scatter(-1, largest.indices, largest.values)
    return torch.multinomial(logits_NV.softmax(-1), 1, generator=generator).squeeze(-1)


def _check(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    generator: torch.Generator | None,
    use_cache: bool,
) -> None:
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens: expected at least 1, got {max_new_tokens}")
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"temperature: expected a finite number of at least 0, got {temperature}")
    if temperature > 0 and generator is None:
        raise ValueError(f"generator: sampling with temperature={temperature} needs a torch.Generator, got None")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k: expected None or at least 1, got {top_k}")
    if use_cache and "cache" not in inspect.signature(model.forward).parameters:
        raise ValueError(
            f"use_cache: {type(model).__name__}.forward takes no cache; pass use_cache=False, which computes the"
            " whole sequence for every token"
        )
    for index, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise ValueError(f"prompts: prompt {index} is empty, expected at least one token")
    longest = max(map(len, prompts), default=0)
    limit = getattr(getattr(model, "config", None), "max_seq_len", None)
    # The last token is chosen and not read.
    if limit is not None and longest + max_new_tokens - 1 > limit:
        raise ValueError(
            f"max_new_tokens: the longest prompt has {longest} tokens, so at most {limit - longest + 1} new ones fit"
            f" into max_seq_len={limit}, got {max_new_tokens}"
        )


def _without_eos(row: list[int], eos: int | None) -> list[int]:
    return row[:-1] if row and row[-1] == eos else row
