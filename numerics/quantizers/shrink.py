"""Makes a failing matrix small and plain: deterministic delta debugging (Zeller and Hildebrandt 2002) on rows, columns
and elements, then on the numbers themselves.

No search library is needed for it: what hypothesis shrinks is an example that its own strategies drew, while here the
failing matrix exists already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.floating]
MOST_TRIALS = 250


class _Trials:
    """The predicate with a limit: after so many calls nothing fails any more, so that shrinking ends."""

    def __init__(self, fails: Callable[[Matrix], bool], limit: int) -> None:
        self._fails, self.left = fails, limit

    def __call__(self, x: Matrix) -> bool:
        if self.left <= 0 or not x.size:
            return False
        self.left -= 1
        return self._fails(x)


def shrink(x: Matrix, fails: Callable[[Matrix], bool], trials: int = MOST_TRIALS) -> Matrix:
    """A matrix for which `fails` still holds, with fewer rows, columns and non-zero elements, and with numbers of fewer
    significant bits nearer to 1. `fails(x)` must hold; at most `trials` calls."""
    test = _Trials(fails, trials)
    while True:
        before = x
        for axis in (0, 1):
            x = _fewer(x, axis, test)
        x = _more_zeros(x, test)
        x = _plainer(x, test)
        if (x.shape == before.shape and np.array_equal(x, before, equal_nan=True)) or test.left <= 0:
            return x


def _fewer(x: Matrix, axis: int, test: _Trials) -> Matrix:
    """Drops runs of rows or columns, long ones first."""
    run = x.shape[axis] // 2
    while run >= 1:
        start = 0
        while start < x.shape[axis] and x.shape[axis] > run:
            smaller = np.delete(x, np.s_[start : start + run], axis=axis)
            if test(smaller):
                x = smaller
            else:
                start += run
        run //= 2
    return x


def _more_zeros(x: Matrix, test: _Trials) -> Matrix:
    """Sets runs of non-zero elements to zero, long ones first."""
    run = max(1, int(np.count_nonzero(x)) // 2)
    while run >= 1:
        start = 0
        while True:
            places = np.flatnonzero(x)
            if start >= places.size or places.size <= 1:
                break
            smaller = x.copy()
            smaller.reshape(-1)[places[start : start + run]] = 0.0
            if np.count_nonzero(smaller) and test(smaller):
                x = smaller
            else:
                start += run
        run //= 2
    return x


def _plainer(x: Matrix, test: _Trials) -> Matrix:
    """Positive numbers of few bits, one element at a time; first the whole matrix by powers of two."""
    for candidate in _rescaled(x):
        if test(candidate):
            x = candidate
            break
    for place in np.flatnonzero(x)[:64]:
        for value in _plainer_values(x.reshape(-1)[place]):
            candidate = x.copy()
            candidate.reshape(-1)[place] = value
            if test(candidate):
                x = candidate
                break
    return x


def _rescaled(x: Matrix) -> Iterator[Matrix]:
    largest = float(np.max(np.abs(x[np.isfinite(x)]), initial=0.0))
    if largest == 0.0 or largest == 1.0 or np.frexp(largest)[1] == 1:
        return
    with np.errstate(over="ignore", under="ignore"):
        yield np.ldexp(x, 1 - int(np.frexp(largest)[1])).astype(x.dtype)


def _plainer_values(value: np.floating) -> Iterator[float]:
    """The same number without sign, then 1, then with 1, 2, … significant bits (rounded down and up)."""
    number = float(value)
    if not np.isfinite(number):
        if number < 0:
            yield -number
        return
    if number < 0:
        yield -number
    if number != 1.0:
        yield 1.0
    mantissa, exponent = np.frexp(number)
    limit = float(np.finfo(value.dtype).max)
    for bits in range(1, 24):
        for rounded in (np.floor(mantissa * 2.0**bits), np.ceil(mantissa * 2.0**bits)):
            candidate = float(np.ldexp(rounded, exponent - bits))
            if candidate == number:
                return
            if abs(candidate) <= limit:
                yield candidate
