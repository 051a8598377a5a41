"""Whether a recipe's numbers depend on how a batch is divided among processes or micro-batches.

Every process quantises its own tokens, and nothing is all-reduced for it. So a scale that several tokens share is
another one when they are divided in another way: data parallel training is then not, to the last bits, the training of
the whole batch in one process, but an equally good quantisation of it.
"""

from __future__ import annotations

from math import lcm

from narrowgauge.formats import Scheme
from narrowgauge.formats.operand import AnyScheme
from narrowgauge.formats.stages import Gain, Rotation
from narrowgauge.nn.recipe import Recipe

TOKENS_ARE_ROWS = ("x_fprop", "g_dgrad")
TOKENS_ARE_COLUMNS = ("g_wgrad", "x_wgrad")


def tokens_per_scale(recipe: Recipe) -> int | None:
    """How many consecutive tokens share scales: 1: a token's numbers are its own, whatever the batch; n: a division
    into multiples of n tokens changes nothing; None: all tokens of a call do, or earlier calls count.

    Two things are not meant: stochastic rounding draws by the place in the process's own batch, and sums over tokens
    are added in another order.
    """
    spans = [_span(recipe.slots[slot], 0) for slot in TOKENS_ARE_ROWS]
    spans += [_span(recipe.slots[slot], 1) for slot in TOKENS_ARE_COLUMNS]
    spans += [_span(recipe.outputs[name], 0) for name in ("out_fprop", "out_dgrad")]
    # The gradient that a process makes of its own tokens is rounded before it is summed with the others'.
    if None in spans or recipe.outputs["out_wgrad"] is not None:
        return None
    return lcm(*(span for span in spans if span is not None))


def _span(slot: AnyScheme | None, axis: int) -> int | None:
    if slot is None:
        return 1
    if not isinstance(slot, Scheme):
        inner = _span(slot.scheme, axis)
        # Of the stages, these alone surely look at one block of the reduction axis at a time.
        if slot.scaling is not None or inner is None or not all(isinstance(s, Rotation | Gain) for s in slot.stages):
            return None
        rotation = slot.rotation
        return inner if rotation is None or axis == 0 else lcm(inner, rotation.size)
    if slot.static is not None:
        return 1
    return None if slot.two_level else slot.tile[axis]
