"""Conformance before speed: samples against the reference, and a wrong operator is named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from narrowgauge.bench.compile_matrix import load_ops
from narrowgauge.bench.conformance import check_samples
from narrowgauge.kernels import OPS, get_op

load_ops()


@pytest.mark.parametrize("name", sorted(name for name, op in OPS.items() if not op.mutates))
def test_every_sample_of_an_op_is_run(name: str) -> None:
    assert check_samples(get_op(name)) > 20


def test_a_wrong_bit_is_found_and_the_sample_named() -> None:
    op = get_op("quantize")

    def wrong(*args):
        codes, scale, outer = op.reference(*args)
        return codes ^ 1, scale, outer

    with pytest.raises(AssertionError, match=r"quantize e4m3fn output 0: 5920 of 5920 elements differ"):
        check_samples(replace(op, reference=wrong))


def test_an_op_that_writes_its_arguments_is_refused() -> None:
    with pytest.raises(ValueError, match="op: adamw_step writes p"):
        check_samples(get_op("adamw_step"))
