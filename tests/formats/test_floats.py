"""What E8M0 does with what it does not have. `test_oracles_*.py` compare all minifloats with other libraries."""

from __future__ import annotations

import numpy as np
import pytest

from narrowgauge import formats


@pytest.mark.parametrize(("x", "nearest"), [(0.75, 0.5), (1.5, 2.0), (3.0, 2.0), (6.0, 8.0)])
def test_e8m0_rounds_by_the_parity_of_its_code(x: float, nearest: float) -> None:
    assert formats.get("e8m0fnu").round(x) == nearest


def test_e8m0_has_neither_zero_nor_sign() -> None:
    fmt = formats.get("e8m0fnu")
    x = [0.0, -0.0, 2.0**-200, -1.0, -np.inf, np.inf]
    assert fmt.encode(x).tolist() == [0, 0, 0, 0, 0, 254]
    assert fmt.encode(x, overflow="nonsaturating").tolist() == [255, 255, 0, 255, 255, 255]
    assert fmt.encode(1.5 * 2.0**127).item() == 254
    assert fmt.encode(1.5 * 2.0**127, overflow="nonsaturating").item() == 254  # the tie goes to the even code
