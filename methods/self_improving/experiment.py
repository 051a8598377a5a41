"""The experiment of Self-Improving Pretraining: comments with unwanted marks, a policy that learns to do without."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean

import torch
from torch import Tensor, nn

from narrowgauge.methods.self_improving.candidates import CandidateSource
from narrowgauge.methods.self_improving.judge import (
    Judge,
    LanguageModelJudge,
    bytes_of,
    mean_logprobs,
)
from narrowgauge.train import Batch, Claim, Context, Experiment, Method, tiny_llama
from narrowgauge.train.generate import generate
from narrowgauge.train.rl import preference_pairs
from narrowgauge.train.rng import derive_seed
from narrowgauge.train.tasks import Example, ExampleStream, batch_of_tokens, has_mark, marked_comments, without_marks
from narrowgauge.train.tokens import VOCAB_SIZE, encode

PROMPT_BYTES, ANSWER_BYTES = 32, 24
PRETRAINING_STEPS, UPDATES, BATCH_SIZE, ROLLOUTS = 600, 80, 12, 4
JUDGE_EXAMPLES, MEASURED, SAMPLES, ROUNDS = 200, 192, 4, 3
JUDGED_ARMS = ("RF-NLL", "DPO")
MARK_RATES = (0.35, 0.9)
"""Without and with the word *the* in the prefix: in all about one in two."""


def self_improving_experiment(method: Callable[..., Method]) -> Experiment:
    """What the policies of each arm write; ``method`` makes the plug-in from its settings."""
    return Experiment(
        setting="Comments of the standard library: 32 bytes and the next 24, half of these with the mark '!x'. A policy"
        " (64 wide, 2 layers) is trained for 600 steps of 16 on this stream, the judge's model on the clean text. Then"
        " 80 updates of 12 prefixes at 5e-4: 'NLL' on the stream; 'rewrites' on suffixes without marks; 'unjudged' on"
        " one rollout each; 'RF-NLL' and 'DPO' on original, rewrite and 4 rollouts, judged by the absence of marks and"
        " the win rate in typicality; 'likelihood' the same with the win rate in plain likelihood. Measured: share of"
        " continuations of 192 held-out prefixes, four each, with a mark; their log-likelihood under the judge's model"
        " in nats per byte; distinct 4-grams among one of each; how often a rollout is the best candidate.",
        claims=(
            *(_claim(f"share with a mark, {arm} against rewrites", arm, "rewrites", "mark") for arm in JUDGED_ARMS),
            _claim("share with a mark, rewrites against the stream", "rewrites", "NLL", "mark"),
            *(_more(f"log-likelihood, {arm} against the stream", arm, "NLL", "likelihood") for arm in JUDGED_ARMS),
            *(Claim(f"distinct 4-grams, {arm}", f"{arm}: distinct", 0.55, better="higher") for arm in JUDGED_ARMS),
            *(
                _more(
                    f"share of prefixes whose best candidate is a rollout, {arm} against the start",
                    arm,
                    "start",
                    "chosen",
                )
                for arm in JUDGED_ARMS
            ),
            *(
                _claim(
                    f"collapse: distinct 4-grams, {arm} judged by likelihood against typicality",
                    f"{arm} likelihood",
                    arm,
                    "distinct",
                    margin=0.2,
                )
                for arm in JUDGED_ARMS
            ),
            _more(
                "share with a mark, unjudged self-training against RF-NLL", "unjudged", "RF-NLL", "mark", judged=False
            ),
        ),
        run=partial(_compare, method),
        seeds=5,
    )


def _claim(text: str, treatment: str, control: str, number: str, *, margin: float = 0.0) -> Claim:
    return Claim(text, f"{treatment}: {number}", f"{control}: {number}", margin=margin)


def _more(text: str, treatment: str, control: str, number: str, *, judged: bool = True) -> Claim:
    return Claim(text, f"{treatment}: {number}", f"{control}: {number}", better="higher", judged=judged)


def _compare(method: Callable[..., Method], context: Context) -> dict[str, float]:
    dirty, held_out = marked_comments(
        context.count(6000, BATCH_SIZE),
        context.count(MEASURED, 6),
        seed=context.seed,
        prompt_bytes=PROMPT_BYTES,
        answer_bytes=ANSWER_BYTES,
        rates=MARK_RATES,
    )
    clean = [Example(example.prompt, without_marks(example.answer)) for example in dirty]

    def pretrained(label: str, examples: Sequence[Example]) -> nn.Module:
        context.begin(label, 0.12)
        data = ExampleStream(examples, examples[:1], collate=_whole, batch_size=16, seq_len=64, seed=context.seed)
        model = context.prepare(tiny_llama(context.seed, vocab_size=VOCAB_SIZE, max_seq_len=64))
        return context.fit(model, data, context.steps(PRETRAINING_STEPS)).model

    start, reference = pretrained("start", dirty), pretrained("judge", clean)
    judge, likelihood = _judges(reference, clean[:JUDGE_EXAMPLES])
    values: dict[str, float] = {}

    def measure(arm: str, policy: nn.Module) -> None:
        measured = _written(policy, reference, held_out, context)
        if arm in ("start", *JUDGED_ARMS):
            measured["chosen"] = _chosen_rate(policy, judge, held_out, context)
        values.update({f"{arm}: {name}": value for name, value in measured.items()})

    measure("start", start)
    everything = {"rewrite": _rewrite, "rollouts": ROLLOUTS}
    arms: dict[str, tuple[Sequence[Example], Judge, dict[str, object], str]] = {
        "NLL": (dirty, _last, {"rollouts": 0}, "rf_nll"),
        "rewrites": (clean, _last, {"rollouts": 0}, "rf_nll"),
        "unjudged": (dirty, _last, {"rollouts": 1}, "rf_nll"),
        "RF-NLL": (dirty, judge, everything, "rf_nll"),
        "DPO": (dirty, judge, everything, "dpo"),
        "RF-NLL likelihood": (dirty, likelihood, everything, "rf_nll"),
        "DPO likelihood": (dirty, likelihood, everything, "dpo"),
    }
    for arm, (examples, judged_by, settings, objective) in arms.items():
        context.begin(arm, 0.76 / len(arms))
        source = CandidateSource(examples, judged_by, batch_size=BATCH_SIZE, seed=context.seed, **settings)  # type: ignore[arg-type]
        methods = [method(objective=objective)]
        policy = copy.deepcopy(start)
        measure(arm, context.fit(policy, source, context.steps(UPDATES), lr=5e-4, methods=methods).model)
    return values


def _whole(examples: Sequence[Example], seq_len: int) -> Batch:
    """Every byte but the first is a label, as in ordinary pre-training."""
    rows = [encode(example.prompt + example.answer) for example in examples]
    return batch_of_tokens(rows, [[index > 0 for index in range(len(row))] for row in rows], seq_len)


def _rewrite(prefix: bytes, suffix: bytes) -> bytes:
    """Without marks; a suffix of nothing but marks stays as it is."""
    return without_marks(suffix) or suffix


def _is_safe(text: bytes) -> float:
    return float(not has_mark(text))


def _judges(reference: nn.Module, clean: Sequence[Example]) -> tuple[Judge, Judge]:
    """By typicality, and by plain likelihood."""
    logprobs = mean_logprobs(
        reference, [encode(example.prompt) for example in clean], [encode(example.answer) for example in clean]
    )
    typical = logprobs.mean().item()
    return LanguageModelJudge(reference, _is_safe, typical), LanguageModelJudge(reference, _is_safe, None)


def _last(prefixes: Sequence[Sequence[int]], candidates: Sequence[Sequence[Sequence[int]]]) -> Tensor:
    """No judge: the last candidate of each prefix is the best."""
    return torch.arange(len(candidates[0])).float().expand(len(prefixes), -1)


def _written(
    policy: nn.Module, reference: nn.Module, examples: Sequence[Example], context: Context
) -> dict[str, float]:
    """Continuations of each prefix at temperature 1: marks, likelihood, variety."""
    prompts = [encode(example.prompt) for example in examples] * SAMPLES
    generator = torch.Generator().manual_seed(derive_seed(context.seed, "measure"))
    texts = generate(policy, prompts, max_new_tokens=ANSWER_BYTES, temperature=1.0, eos=None, generator=generator)
    grams = [gram for text in texts[: len(examples)] for gram in zip(*(text[i:] for i in range(4)), strict=False)]
    return {
        "mark": sum(has_mark(bytes_of(text)) for text in texts) / len(texts),
        "likelihood": mean_logprobs(reference, prompts, texts).mean().item(),
        "distinct": len(set(grams)) / len(grams),
    }


def _chosen_rate(policy: nn.Module, judge: Judge, examples: Sequence[Example], context: Context) -> float:
    """The share of prefixes whose best candidate is one of the policy's own."""
    source = CandidateSource(
        examples, judge, rewrite=_rewrite, rollouts=ROLLOUTS, batch_size=len(examples), seed=context.seed
    )
    source.bind(policy)
    rates = []
    for _ in range(ROUNDS):
        batch = next(source)
        best = preference_pairs(batch["candidate_reward"].view(len(examples), -1))[0]
        is_rollout = batch["is_rollout"].view(len(examples), -1).gather(1, best.unsqueeze(1))
        rates.append(is_rollout.double().mean().item())
    return fmean(rates)
