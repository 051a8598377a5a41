"""What the experiment's base model learns: the form of a call, and to copy values into it, but no tool's name.

    U:get wkqpa of 3 9
    A:rjxodcsq(a=[3,9])

Name and request are random letters and given; only the value is learned. As their lengths differ, so does the distance
over which it has to be copied.
"""

from narrowgauge.train.tasks import Draws, Example, Split
from narrowgauge.train.tasks.split import split_of
from narrowgauge.train.tasks.tools import PARAMETER


def strange_call(draws: Draws) -> Example:
    """One call, of a list of digits or a word."""
    ask, name = draws.text(draws.between(3, 8)), draws.text(draws.between(7, 9))
    if draws.chance(0.5):
        numbers = [str(draws.below(10)) for _ in range(draws.between(2, 4))]
        told, value = " ".join(numbers), f"[{','.join(numbers)}]"
    else:
        told = draws.text(draws.between(2, 4))
        value = f"'{told}'"
    return Example(f"U:get {ask} of {told}\nA:{name}({PARAMETER}=".encode(), f"{value})\n".encode())


def strange_calls(num_train: int, num_validation: int, *, seed: int) -> Split:
    """Different calls for training and validation; a function of the seed."""
    return split_of(strange_call, num_train, num_validation, Draws(seed, "strange calls"))
