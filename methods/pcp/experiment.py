"""The experiment of PCP: what continued pre-training does to a prompt, before and after tuning."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from narrowgauge.methods.pcp.classifier import histogram, predict
from narrowgauge.methods.pcp.method import Phases
from narrowgauge.methods.pcp.rows import build_corpus, raw_corpus
from narrowgauge.methods.pcp.template import Prompt, Text
from narrowgauge.train import BatchStream, ByteCorpus, Claim, Context, Experiment, tiny_llama
from narrowgauge.train.tasks.draws import Draws
from narrowgauge.train.tasks.line_kinds import KINDS, line_kinds
from narrowgauge.train.tokens import VOCAB_SIZE

PROMPT = Prompt(words=(b"A", b"B", b"C"), before=b" #", after=b"", max_length=51)
LABELLED, UNLABELLED, TEST = 48, 750, 300


def pcp_experiment() -> Experiment:
    """Accuracy of the prompt after each kind of continued pre-training."""
    return Experiment(
        setting="A byte model 64 wide with 2 layers is trained for 500 steps on 1 MB of the standard library. Task:"
        " three kinds of line (control flow, prose of comments, definitions and imports), written as 'line #A'; 16"
        " labelled and 250 unlabelled lines a kind, 300 to test (chance 1/3). Continued pre-training: 250 steps of 16"
        " at 1e-3 on raw lines (TAPT), or on templates with pseudo labels, with these shuffled, with the true labels;"
        " tuning: 80 steps on the label's byte. '+ FT': after the last tuning.",
        claims=(
            _claim("PCP", "TAPT", "zero-shot accuracy, pseudo labels against raw text"),
            _claim("PCP", "PCP shuffled", "zero-shot accuracy, pseudo labels against the same ones shuffled"),
            _claim("PCP gold", "PCP", "zero-shot accuracy, true labels against pseudo labels", judged=False),
            _claim("PCP + FT", "FT", "accuracy after tuning, PCP against none"),
            _claim("PCP + FT", "TAPT + FT", "accuracy after tuning, PCP against raw text", judged=False),
            _claim(
                "PCP + FT", "PCP shuffled + FT", "accuracy after tuning, pseudo labels against shuffled", judged=False
            ),
            _claim("TAPT + FT", "FT", "accuracy after tuning, raw text against none", judged=False),
        ),
        run=_compare,
        seeds=8,
    )


def _claim(treatment: str, control: str, text: str, *, judged: bool = True) -> Claim:
    return Claim(text, treatment, control, better="higher", judged=judged)


def _accuracy(model: nn.Module, texts: Sequence[Text], gold: torch.Tensor) -> float:
    return (predict(model, PROMPT, texts)[0] == gold).double().mean().item()


def _compare(context: Context) -> dict[str, float]:
    sizes = [context.count(size, 2 * len(KINDS)) for size in (LABELLED, UNLABELLED, TEST)]
    lines = line_kinds(sum(sizes), seed=context.seed)
    texts, labels = [Text(line.text) for line in lines], [line.label for line in lines]
    few, many, test = slice(sizes[0]), slice(sizes[0], sizes[0] + sizes[1]), slice(sizes[0] + sizes[1], None)
    gold = torch.tensor(labels)
    phases = Phases(PROMPT, tuning_steps=context.steps(80), pretraining_steps=context.steps(250), seed=context.seed)

    context.begin("base", 0.2)
    base = context.prepare(tiny_llama(context.seed, vocab_size=VOCAB_SIZE))
    text = BatchStream(ByteCorpus(max_bytes=1_000_000), batch_size=16, seq_len=64, seed=context.seed)
    base = context.fit(base, text, context.steps(500)).model

    context.begin("FT", 0.04)
    labeller = phases.tune(base, texts[few], labels[few], context.fit)
    pseudo = predict(labeller, PROMPT, texts[many])[0]
    values = {"FT": _accuracy(labeller, texts[test], gold[test])}
    values["pseudo labels"] = (pseudo == gold[many]).double().mean().item()
    values |= {f"pseudo labels {kind}": count for kind, count in zip(KINDS, histogram(pseudo, PROMPT), strict=True)}

    shuffled = Draws(context.seed, "shuffled pseudo labels").shuffled(pseudo.tolist())
    corpora = {
        "TAPT": raw_corpus(texts[many], PROMPT),
        "PCP": build_corpus(texts[many], pseudo.tolist(), PROMPT),
        "PCP shuffled": build_corpus(texts[many], shuffled, PROMPT),
        "PCP gold": build_corpus(texts[many], labels[many], PROMPT),
    }
    for arm, corpus in corpora.items():
        context.begin(arm, 0.19)
        pretrained = phases.pretrain(base, corpus, context.fit)
        values[arm] = _accuracy(pretrained, texts[test], gold[test])
        tuned = phases.tune(pretrained, texts[few], labels[few], context.fit)
        values[f"{arm} + FT"] = _accuracy(tuned, texts[test], gold[test])
    return values
