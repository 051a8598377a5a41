"""Conformance before speed: samples against the reference, and a wrong operator is named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from narrowgauge.bench.compile_matrix import load_ops
from narrowgauge.bench.conformance import check_samples
from narrowgauge.kernels import OPS, get_op
from narrowgauge.kernels.op import Sample

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


def is_adamw_with_coat(sample: Sample) -> bool:
    return sample.args[0] == "adamw" and sample.args[8] == sample.args[9] == "coat"


def test_what_an_op_has_written_is_compared() -> None:
    op = get_op("optimizer_step")
    assert check_samples(op, select=is_adamw_with_coat) > 0

    def wrong(*args):
        first, *others = op.reference(*args)
        return [[p + 1.0 for p in first], *others]

    with pytest.raises(AssertionError, match=r"optimizer_step .* output 0"):
        check_samples(replace(op, reference=wrong), select=is_adamw_with_coat)


def test_samples_are_not_written_while_they_are_checked() -> None:
    op = get_op("optimizer_step")
    kept = [sample for sample in op.samples(np.random.default_rng(1), "cpu") if is_adamw_with_coat(sample)]
    before = [sample.args[1][0].clone() for sample in kept]
    check_samples(replace(op, samples=lambda rng, device: iter(kept)))
    assert all(torch.equal(sample.args[1][0], p) for sample, p in zip(kept, before, strict=True))


def test_a_selection_without_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="select: none of the samples of quantize"):
        check_samples(get_op("quantize"), select=lambda sample: False)
