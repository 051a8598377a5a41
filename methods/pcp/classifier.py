"""Classification with a prompt: which label word does the language model expect?

For a causal model the score of class ``c`` is ``Σ log p(token)`` of the row that is filled with its word, from the word
to the end of the row: what stands before is the same for all classes. For a single text this is the word's own
probability (and the ending's); for a pair the second text counts as well, as it follows the word.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from narrowgauge.methods.pcp.rows import Row, collate
from narrowgauge.methods.pcp.template import Prompt, Text
from narrowgauge.train.decoding import device_of, eval_mode
from narrowgauge.train.rl.logprobs import sequence_logprobs


@torch.no_grad()
def predict(model: nn.Module, prompt: Prompt, texts: Sequence[Text], *, batch_size: int = 64) -> tuple[Tensor, Tensor]:
    """The class of each of ``n`` texts, int64 [n], and the probabilities of the C classes, float32 [n, C], on the CPU.

    ``batch_size`` counts texts. The model computes in eval mode and gets its modes back.
    """
    device, scores = device_of(model), []
    with eval_mode(model):
        for start in range(0, len(texts), batch_size):
            rows = []
            for text in texts[start : start + batch_size]:
                filled = [prompt.fill(text, label) for label in range(len(prompt.words))]
                rows += [Row(row, prompt.slot(text), len(row)) for row in filled]
            batch = collate(rows, prompt.max_length)
            found = sequence_logprobs(model, batch["input_ids"].to(device), batch["labels"].to(device))
            scores.append(found.cpu().unflatten(0, (-1, len(prompt.words))))
    if not scores:
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, len(prompt.words))
    logprobs = torch.cat(scores)
    return logprobs.argmax(-1), logprobs.softmax(-1)


def histogram(labels: Tensor, prompt: Prompt) -> list[int]:
    """How many labels each class has: a class that is hardly ever predicted shows here."""
    return torch.bincount(labels, minlength=len(prompt.words)).tolist()
