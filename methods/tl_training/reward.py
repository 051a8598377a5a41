"""Reward of a call for reinforcement learning, by what is wrong with it.

From worst to best, with H: a parameter that the tool does not have, R: one that the tool has and the right call does
not use, M: one of the right call's that is missing::

    no call at all, or a tool that there is not   -2
    the right tool with H, R and M                -1.8
    another tool                                  -1.5
    H and one of R, M                             -1.3
    R and M                                       -1
    H                                             -0.8
    R or M                                        -0.5
    right parameters, a wrong value               -0.25
    the right call                                 1

That everything wrong about the parameters costs more than another tool is the release's choice.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from narrowgauge.methods.tl_training.calls import parse
from narrowgauge.train.rl import Completion

Registry = Mapping[str, Collection[str]]
"""Tool → its parameters."""

NO_CALL, OTHER_TOOL, WRONG_VALUE, RIGHT = -2.0, -1.5, -0.25, 1.0
PARAMETER_FAULTS: Mapping[tuple[bool, bool, bool], float] = {
    (True, True, True): -1.8,
    (True, True, False): -1.3,
    (True, False, True): -1.3,
    (False, True, True): -1.0,
    (True, False, False): -0.8,
    (False, True, False): -0.5,
    (False, False, True): -0.5,
}
"""(hallucinated, redundant, missing) → reward."""


def call_reward(text: str, gold: str, registry: Registry) -> float:
    """The reward of ``text`` where ``gold`` is right.

    Raises ``ValueError`` where ``gold`` is no call of a known tool.
    """
    right = parse(gold)
    if right is None or right.name not in registry:
        raise ValueError(f"gold: expected a call of one of {', '.join(registry)}, got {gold!r}")
    call = parse(text)
    if call is None or call.name not in registry:
        return NO_CALL
    if call.name != right.name:
        return OTHER_TOOL
    used, wanted, known = set(call.values), set(right.values), set(registry[call.name]) | set(right.values)
    faults = (not used <= known, bool((used & known) - wanted), not wanted <= used)
    if any(faults):
        return PARAMETER_FAULTS[faults]
    return RIGHT if call.values == right.values else WRONG_VALUE


def reward_of(registry: Registry) -> Callable[[Any, Completion], float]:
    """:func:`call_reward` for a :class:`~narrowgauge.train.rl.RolloutSource` whose items have a ``reply`` in bytes."""
    return lambda item, completion: call_reward(completion.text, item.reply.decode(), registry)
