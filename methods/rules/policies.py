"""Who replies: controls without a model, and a language model.

A policy takes conversations (each a list of messages that ends with one of the user's) and gives a reply to each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from narrowgauge.methods.rules.cases import Case
from narrowgauge.methods.rules.judge import ASSISTANT, SYSTEM, USER, Message, opening
from narrowgauge.methods.rules.scenario import Scenario
from narrowgauge.train.generate import generate
from narrowgauge.train.tasks import Example
from narrowgauge.train.tokens import EOS, decode, encode

Conversation = Sequence[Message]
Policy = Callable[[Sequence[Conversation]], list[str]]
Control = Callable[[Scenario, str], str]
"""(scenario, last message) → reply: a control may know the scenario."""
SIGNS = {SYSTEM: "S:", USER: "U:", ASSISTANT: "A:"}
TURN_END = "\n"


def one_by_one(reply: Callable[[Conversation], str]) -> Policy:
    """A policy of a function of one conversation."""
    return lambda conversations: [reply(conversation) for conversation in conversations]


def oracle(scenario: Scenario, message: str) -> str:
    """Breaks no rule."""
    return scenario.answer(message)


def echo(scenario: Scenario, message: str) -> str:
    """Says what the user says."""
    return message


def silent(scenario: Scenario, message: str) -> str:
    """Says nothing."""
    return ""


def leaky(scenario: Scenario, message: str) -> str:
    """Says all parameters, whatever the message is."""
    return scenario.brief.replace("|", " ").replace(",", " ")


def render(conversation: Conversation) -> bytes:
    """The conversation, a line a turn, and the sign that it is the assistant's turn."""
    lines = [f"{SIGNS[role]}{' '.join(text.split(TURN_END))}{TURN_END}" for role, text in conversation]
    return ("".join(lines) + SIGNS[ASSISTANT]).encode()


def model_policy(model: nn.Module, *, max_new_tokens: int, batch_size: int = 64) -> Policy:
    """A byte-level language model, greedy; a reply ends where its turn does."""

    def reply(conversations: Sequence[Conversation]) -> list[str]:
        replies: list[str] = []
        for start in range(0, len(conversations), batch_size):
            prompts = [encode(render(conversation)) for conversation in conversations[start : start + batch_size]]
            rows = generate(model, prompts, max_new_tokens=max_new_tokens, eos=EOS)
            replies += [decode(row).split(TURN_END)[0] for row in rows]
        return replies

    return reply


def sft_examples(cases: Sequence[Case], *, brief: bool = False) -> list[Example]:
    """Each turn of each case with the oracle's reply, to be learned; earlier replies are the oracle's too."""
    examples = []
    for case in cases:
        conversation = list(opening(case.scenario, brief=brief))
        for message in case.turns:
            conversation.append(Message(USER, message))
            reply = oracle(case.scenario, message)
            examples.append(Example(render(conversation), reply.encode()))
            conversation.append(Message(ASSISTANT, reply))
    return examples
