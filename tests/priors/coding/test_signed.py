"""The map of signed integers is one to one, also at its ends."""

import numpy as np
import pytest

from narrowgauge.priors.coding import to_signed, to_unsigned


def test_the_first_numbers():
    assert to_unsigned(np.array([0, 1, -1, 2, -2, 3], dtype=np.int8)).tolist() == [0, 1, 2, 3, 4, 5]


def test_round_trip_at_the_ends():
    values = np.array([2**62, 1 - 2**62, 0, 2**62 - 1, -1])
    numbers = to_unsigned(values)
    assert numbers.tolist() == [2**63 - 1, 2**63 - 2, 0, 2**63 - 3, 2]
    assert np.array_equal(to_signed(numbers), values)


def test_what_has_no_number_is_refused():
    with pytest.raises(ValueError, match="accepted: 1 - 2"):
        to_unsigned(np.array([-(2**62)]))
    with pytest.raises(TypeError, match="float"):
        to_unsigned(np.array([0.5]))
