"""Sums modulo 10 with filler that makes their length free: ``3571|28:`` → ``3+5=8;..8+7=5;..5+1=6;#6``.

The prompt has the digits and a budget: how many tokens the completion may have, its end included. Each step may
have dots in front of it, which change nothing but the length (0 … 4 dots a step: 21 … 33 tokens for four
digits). In training the dots are drawn without regard to the budget: only reinforcement can teach to keep it. The
task for methods that steer the length of reasoning (Train Long, Think Short, arXiv 2508.08940).
"""

import re
from collections.abc import Sequence

from narrowgauge.train.tasks.answers import RESULT, reasoning_and_result
from narrowgauge.train.tasks.draws import Draws
from narrowgauge.train.tasks.source import Example
from narrowgauge.train.tasks.split import Split, split_of

FILLER = "."


def chain_sum_prompt(digits: Sequence[int], budget: int) -> bytes:
    """``3571|28:`` for the digits 3, 5, 7, 1 and a budget of 28 tokens (two digits, 0 … 99)."""
    if not 0 <= budget <= 99:
        raise ValueError(f"budget: expected 0 … 99, got {budget}")
    return "".join(map(str, digits)).encode() + f"|{budget:02d}:".encode()


def chain_sum_answer(digits: Sequence[int], dots: Sequence[int]) -> bytes:
    """The chain with ``dots[i]`` dots in front of step i; there is one step fewer than digits."""
    total, chain = digits[0], ""
    for digit, filler in zip(digits[1:], dots, strict=True):
        chain += f"{FILLER * filler}{total}+{digit}={(total + digit) % 10};"
        total = (total + digit) % 10
    return chain.encode() + RESULT + str(total).encode()


def chain_sum_digits(prompt: bytes) -> tuple[int, ...]:
    """The digits of a prompt."""
    return tuple(map(int, prompt.partition(b"|")[0].decode()))


def chain_sum_is_right(prompt: bytes, completion: bytes) -> bool:
    """Whether the completion's result is the sum modulo 10, whatever the chain says."""
    return reasoning_and_result(completion)[1] == str(sum(chain_sum_digits(prompt)) % 10).encode()


def chain_sum_is_well_formed(prompt: bytes, completion: bytes) -> bool:
    """Whether it consists of as many steps as needed, with any dots and any digits, and a result of one digit."""
    steps = len(chain_sum_digits(prompt)) - 1
    return re.fullmatch(rb"(?:\.*\d\+\d=\d;){%d}#\d" % steps, completion) is not None


def chain_sum_lengths(num_digits: int = 4, max_dots: int = 4) -> tuple[int, int]:
    """The shortest and the longest completion in tokens, its end included: (21, 33) for the defaults."""
    shortest = 6 * (num_digits - 1) + 3
    return shortest, shortest + max_dots * (num_digits - 1)


def chain_sum(num_train: int, num_validation: int, *, seed: int, num_digits: int = 4, max_dots: int = 4) -> Split:
    """Different rows of digits; dots uniform over 0 … ``max_dots`` for each step, budgets over all lengths."""
    if num_digits < 2:
        raise ValueError(f"num_digits: expected at least 2, got {num_digits}")
    if max_dots < 0:
        raise ValueError(f"max_dots: expected 0 or more, got {max_dots}")
    shortest, longest = chain_sum_lengths(num_digits, max_dots)

    def make(draws: Draws) -> Example:
        digits = [draws.below(10) for _ in range(num_digits)]
        dots = [draws.between(0, max_dots) for _ in digits[1:]]
        return Example(
            chain_sum_prompt(digits, draws.between(shortest, longest)),
            chain_sum_answer(digits, dots),
        )

    draws = Draws(seed, f"chain sum:{num_digits}:{max_dots}")
    return split_of(make, num_train, num_validation, draws, key_bytes=num_digits)
