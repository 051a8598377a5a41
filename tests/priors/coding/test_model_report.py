"""The table of a compressed model."""

import pytest
import torch

from narrowgauge.priors.coding import compress
from narrowgauge.priors.coding.model_report import HEADS


def report(tmp_path, model, **options):
    return compress(model, tmp_path / "m.ngz", **options)


def test_a_row_has_the_numbers_of_its_tensor(tmp_path):
    # 8 zeros, 4 ones, 4 others: 2 bits fixed, entropy 1.75, Exp-Golomb 1·8 + 3·4 + 3·2 + 5·2 = 36 bits.
    values = torch.tensor([0.0] * 8 + [1.0] * 4 + [2.0] * 2 + [3.0] * 2).reshape(4, 4)
    (row,) = report(tmp_path, {"w": values}, step_bits=0, coding="exp-golomb", order=0).rows
    assert (row.parameters, row.fixed, row.entropy, row.code) == (16, 2, 1.75, 36 / 16)
    # 4 symbols of a byte each, the length of one lane in two, 36 bits in five.
    assert (row.nbytes, row.original, row.stored) == (11, 64, 5.5)
    assert row.cells() == ("w", "step 2^-0 exp-golomb 0", "16", "2", "1.750", "2.250", "5.500", "11", "17.2 %")
    assert len(row.cells()) == len(HEADS)


def test_raw_tensors_have_no_code(tmp_path):
    (row,) = report(tmp_path, {"n": torch.ones(3)}, step_bits=8).rows
    assert row.cells() == ("n", "raw", "3", "", "", "", "32.000", "12", "100.0 %")


def test_scales_count(tmp_path):
    (row,) = report(tmp_path, {"w": torch.randn(8, 64)}, scheme="int8/row").rows
    (other,) = report(tmp_path, {"w": torch.randn(8, 64)}, scheme="int8/1x8").rows
    assert other.nbytes > row.nbytes + 4 * 50


def test_totals_and_json(tmp_path):
    found = report(tmp_path, {"w": torch.zeros(10, 10), "none": torch.zeros(0, 2)}, step_bits=8)
    assert found.totals().startswith("2 tensors, 100 parameters: ")
    assert found.totals().endswith("of 400 bytes")
    assert found.to_dict()["tensors"][0]["code"] == 0.0
    assert found.to_dict()["nbytes"] == found.nbytes
    empty = report(tmp_path, {})
    assert empty.totals().startswith("0 tensors, 0 parameters: ")
    assert empty.parameters == 0
    assert pytest.approx(found.rows[1].stored) == 0.0
