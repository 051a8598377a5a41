"""Addition with a written-out chain of thought: ``38+47=`` → ``8+7=15;3+4+1=08;#085``.

From the last digits to the first: the digits of both numbers and the carry, and their sum in two digits, whose
first is the next carry. Behind ``#`` is the sum, one digit longer than the numbers. Every step can be computed
from the question and the step before it, so a model can take a digit from either: the task for methods that
change how much a model trusts its own chain (Chen et al. 2024, Masked Thought, arXiv 2403.02178).
"""

from narrowgauge.train.tasks.answers import RESULT, reasoning_and_result
from narrowgauge.train.tasks.draws import Draws
from narrowgauge.train.tasks.source import Example
from narrowgauge.train.tasks.split import Split, split_of


def addition_example(left: int, right: int, digits: int = 2) -> Example:
    """The example of two numbers of at most ``digits`` digits, which are written with leading zeros."""
    if digits < 1:
        raise ValueError(f"digits: expected at least 1, got {digits}")
    for name, number in (("left", left), ("right", right)):
        if not 0 <= number < 10**digits:
            raise ValueError(f"{name}: expected 0 … {10**digits - 1} with digits={digits}, got {number}")
    prompt = f"{left:0{digits}d}+{right:0{digits}d}="
    carry, chain = 0, ""
    for place in range(digits):
        a, b = (number // 10**place % 10 for number in (left, right))
        chain += f"{a}+{b}={a + b:02d};" if place == 0 else f"{a}+{b}+{carry}={a + b + carry:02d};"
        carry = (a + b + carry) // 10
    return Example(prompt.encode(), chain.encode() + RESULT + f"{left + right:0{digits + 1}d}".encode())


def addition(num_train: int, num_validation: int, *, seed: int, digits: int = 2) -> Split:
    """Different problems with both numbers uniform over 0 … 10^digits - 1."""

    def make(draws: Draws) -> Example:
        return addition_example(draws.below(10**digits), draws.below(10**digits), digits)

    return split_of(make, num_train, num_validation, Draws(seed, f"addition:{digits}"))


def with_wrong_digits(example: Example, share: float, seed: int) -> Example:
    """The same example with each digit of its chain, not of its result, replaced with probability ``share``.

    The replacement is another digit. Teacher-forced with such a chain, a model gives the right result as far as
    it takes it from the question.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share: expected 0 … 1, got {share}")
    draws = Draws(seed, "wrong digits:" + example.prompt.decode())
    reasoning, result = reasoning_and_result(example.answer)
    mixed = bytes(
        ord("0") + (byte - ord("0") + draws.between(1, 9)) % 10 if chr(byte).isdigit() and draws.chance(share) else byte
        for byte in reasoning
    )
    return Example(example.prompt, mixed + RESULT + result)
