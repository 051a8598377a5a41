"""Batches of masked language modelling: some tokens are hidden, and are the labels.

Of the tokens, each is chosen with probability ``ratio``; a chosen one becomes ``MASK`` (80 %), a random byte
(10 %) or stays (10 %), so that a model cannot rely on seeing the mask. Source: BERT (arXiv:1810.04805, 3.1).
"""

import torch
from torch import Tensor

from narrowgauge.train.data import Batch
from narrowgauge.train.loss import IGNORED_LABEL
from narrowgauge.train.tokens import MASK, PAD

MASKED_SHARE, RANDOM_SHARE = 0.8, 0.1
NUM_BYTES = 256


def mask_tokens(input_ids: Tensor, generator: torch.Generator, *, ratio: float = 0.15) -> Batch:
    """``input_ids`` with tokens hidden, and ``labels`` that have the token where one was chosen, else -100.

    [B, T] int64 each; ``generator`` on their device. Only bytes are chosen, no signs (256 and above). Where
    nothing was chosen, one of the row's bytes is. Raises ``ValueError`` for a ``ratio`` outside (0, 1].
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio: expected a number in (0, 1], got {ratio}")

    def uniform() -> Tensor:
        return torch.rand(input_ids.shape, generator=generator, device=input_ids.device)

    is_byte = input_ids < PAD
    draws = uniform().masked_fill(~is_byte, 2.0)
    # The least draw of a row is below the ratio, or is chosen all the same: a row without labels teaches nothing.
    chosen = is_byte & ((draws < ratio) | (draws == draws.amin(-1, keepdim=True)))
    fate = uniform()
    random_bytes = torch.randint(NUM_BYTES, input_ids.shape, generator=generator, device=input_ids.device)
    hidden = torch.where(chosen & (fate < MASKED_SHARE), MASK, input_ids)
    replaced = chosen & (fate >= MASKED_SHARE) & (fate < MASKED_SHARE + RANDOM_SHARE)
    return {
        "input_ids": torch.where(replaced, random_bytes, hidden),
        "labels": torch.where(chosen, input_ids, IGNORED_LABEL),
    }
