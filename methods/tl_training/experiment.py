"""What the parts do to the calls that a byte model makes, where many of the calls that it learns from fail."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from narrowgauge.methods.tl_training.reward import RIGHT, call_reward
from narrowgauge.methods.tl_training.samples import Sample, samples
from narrowgauge.methods.tl_training.source import tool_source
from narrowgauge.methods.tl_training.strange_calls import strange_calls
from narrowgauge.train import Claim, Context, Experiment, Method, tiny_llama
from narrowgauge.train.generate import generate
from narrowgauge.train.rng import derive_seed
from narrowgauge.train.tasks import TOOLS, TaskSource, accuracy, conversations, is_error, run_call
from narrowgauge.train.tasks.tool_calls import TURN_END
from narrowgauge.train.tasks.tools import PARAMETER
from narrowgauge.train.tokens import VOCAB_SIZE, decode, encode

SEQ_LEN, ROWS, STEPS, CALL_TOKENS = 112, 16, 450, 24
CONVERSATIONS, HELD_OUT, TRIES = 1200, 100, 8
BASE_CALLS, BASE_STEPS, BASE_ROWS, BASE_RATE, BASE_LEN, VALUE_TOKENS = 8000, 900, 32, 5e-3, 52, 12
REGISTRY = dict.fromkeys(TOOLS, (PARAMETER,))
ARMS = {"plain": (False, False), "MAE": (True, False), "PKT": (False, True), "both": (True, True)}
"""Whether failed calls are left out, and whether key tokens are weighed."""


def _sampled_calls(model: nn.Module, questions: Sequence[Sample], tries: int, seed: int) -> list[list[str]]:
    """``tries`` calls for each question, at temperature 1."""
    prompts = [encode(question.prompt) for question in questions for _ in range(tries)]
    draws = torch.Generator().manual_seed(derive_seed(seed, "calls"))
    rows = generate(model, prompts, max_new_tokens=CALL_TOKENS, temperature=1.0, eos=TURN_END, generator=draws)
    texts = [decode(row) for row in rows]
    return [texts[start : start + tries] for start in range(0, len(texts), tries)]


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values)


def _measured(arm: str, model: nn.Module, questions: Sequence[Sample], seed: int) -> dict[str, float]:
    exact, best, right_tool, fails = [], [], [], []
    for question, calls in zip(questions, _sampled_calls(model, questions, TRIES, seed), strict=True):
        gold = question.reply.decode()
        rewards = [call_reward(call, gold, REGISTRY) for call in calls]
        exact += [reward == RIGHT for reward in rewards]
        best.append(max(rewards) == RIGHT)
        right_tool += [_has_name_of(call, gold) for call in calls]
        fails += [is_error(run_call(call)) for call in calls]
    return {
        f"{arm}, right call": _share(exact),
        f"{arm}, right tool": _share(right_tool),
        f"{arm}, call that fails": _share(fails),
        f"{arm}, right call, best of {TRIES}": _share(best),
    }


def _has_name_of(call: str, gold: str) -> bool:
    return call.split("(")[0] == gold.split("(")[0]


def _base(context: Context) -> tuple[nn.Module, float]:
    """A model that can copy values into calls, and how many it copies right."""
    context.begin("base", 0.4)
    calls, fresh = strange_calls(context.count(BASE_CALLS, 64), context.count(HELD_OUT, 8), seed=context.seed)
    data = TaskSource(calls, fresh, batch_size=BASE_ROWS, seq_len=BASE_LEN, seed=context.seed)
    model = context.prepare(tiny_llama(context.seed, vocab_size=VOCAB_SIZE))
    model = context.fit(model, data, context.steps(BASE_STEPS), lr=BASE_RATE).model
    return model, accuracy(model, fresh, max_new_tokens=VALUE_TOKENS)


def _compare(method: Callable[[], Method], context: Context) -> dict[str, float]:
    total = context.count(CONVERSATIONS, 32)
    train = conversations(total, seed=context.seed)
    fresh = conversations(context.count(HELD_OUT, 4), seed=derive_seed(context.seed, "held out"), error_rate=0.0)
    questions = [sample for turns in fresh for sample in samples(turns)]
    base, base_accuracy = _base(context)
    values = {"base, values copied": base_accuracy}
    for arm, (mask_errors, weigh) in ARMS.items():
        context.begin(arm, 0.6 / len(ARMS))
        data = tool_source(
            train, fresh, tools=TOOLS, batch_size=ROWS, seq_len=SEQ_LEN, seed=context.seed, mask_errors=mask_errors,
            is_error=is_error,
        )  # fmt: skip
        methods = [method()] if weigh else []
        model = context.fit(copy.deepcopy(base), data, context.steps(STEPS), methods=methods).model
        values |= _measured(arm, model, questions, context.seed)
    return values


def tl_training_experiment(method: Callable[[], Method]) -> Experiment:
    """See the module; ``method`` makes the plug-in."""
    best = f"right call, best of {TRIES}"
    return Experiment(
        setting="A Llama 64 wide with 2 layers first learns to copy values into calls of made-up names, then fine-tunes"
        f" on {CONVERSATIONS} conversations with eight tools of shared prefixes, two in five of which begin with a call"
        f" that fails; {STEPS} steps of {ROWS} samples. Arms:"
        " every call is learned; failed calls only stand in the context (MAE); key tokens weigh up to 9 (PKT); both."
        f" Numbers are shares of {TRIES} sampled calls for each of {HELD_OUT} new requests.",
        claims=(
            Claim("sampled calls that fail, failed calls not learned", "MAE, call that fails", 0.05),
            Claim(
                "right calls, failed calls not learned", "MAE, right call", "plain, right call",
                better="higher", margin=0.1,
            ),
            Claim(
                f"right call, the best of {TRIES} by the reward against one", f"MAE, {best}", "MAE, right call",
                better="higher",
            ),
            Claim(
                "right calls, key tokens weighed as well", "both, right call", "MAE, right call",
                better="higher", judged=False,
            ),
            Claim(
                "right tool, key tokens weighed as well", "both, right tool", "MAE, right tool",
                better="higher", judged=False,
            ),
            Claim(
                "right calls, key tokens weighed, failed calls learned", "PKT, right call", "plain, right call",
                better="higher", judged=False,
            ),
        ),
        run=partial(_compare, method),
        seeds=5,
    )  # fmt: skip
