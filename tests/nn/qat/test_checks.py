"""Checks say the name, what was got and what is accepted."""

from __future__ import annotations

import pytest

from narrowgauge.nn.qat.checks import check_bits, check_choice, check_positive


def test_refusals_are_named() -> None:
    with pytest.raises(ValueError, match=r"bits: got 9, accepted: 2, 3"):
        check_bits("bits", 9, (2, 3))
    with pytest.raises(ValueError, match=r"bits: got True"):
        check_bits("bits", True, (1, 2))
    with pytest.raises(ValueError, match=r"ste: got 'none', accepted: identity, clipped"):
        check_choice("ste", "none", ("identity", "clipped"))
    for wrong in (0, -1.0, True, "x", float("nan")):
        with pytest.raises(ValueError, match="cap: got"):
            check_positive("cap", wrong)
    check_bits("bits", 2, (2, 3))
    check_positive("cap", 0.5)
