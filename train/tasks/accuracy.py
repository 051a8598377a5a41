"""Greedy exact match: how many prompts a model completes with exactly the answer that is expected."""

from collections.abc import Sequence

from torch import nn

from narrowgauge.train.generate import generate
from narrowgauge.train.tasks.source import Example
from narrowgauge.train.tokens import EOS, encode


def accuracy(model: nn.Module, examples: Sequence[Example], *, max_new_tokens: int, batch_size: int = 64) -> float:
    """Share of ``examples``, 0 … 1, whose greedy completion up to ``EOS`` is the answer byte for byte.

    Where an answer has ``max_new_tokens`` bytes, whether ``EOS`` would follow is not seen. Raises ``ValueError``
    for no examples, or an answer that does not fit into ``max_new_tokens`` (it could never be right).
    """
    if not examples:
        raise ValueError("examples: expected at least one, got none")
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    longest = max(len(example.answer) for example in examples)
    if max_new_tokens < longest:
        raise ValueError(f"max_new_tokens: the longest answer has {longest} bytes, got {max_new_tokens}")
    right = 0
    for start in range(0, len(examples), batch_size):
        part = examples[start : start + batch_size]
        prompts = [encode(example.prompt) for example in part]
        completions = generate(model, prompts, max_new_tokens=max_new_tokens, temperature=0.0, eos=EOS)
        right += sum(list(got) == encode(example.answer) for got, example in zip(completions, part, strict=True))
    return right / len(examples)
