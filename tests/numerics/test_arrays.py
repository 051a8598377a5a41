"""Operands of any library reach numpy with their values, and numpy users never pay for torch."""

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import torch

from narrowgauge.numerics._arrays import as_float64, is_tensor


def test_importing_numerics_and_measuring_arrays_does_not_import_torch():
    program = (
        "import sys, numpy as np, narrowgauge.numerics as n\n"
        "n.sqnr_db(np.ones(3), np.ones(3)); n.assert_bitwise(np.ones(3), np.ones(3)); n.hard_cases()\n"
        "assert 'torch' not in sys.modules"
    )
    environment = {"PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


@pytest.mark.parametrize(
    "x",
    [
        [1, 2.5],
        (np.float32(1), 2.5),
        np.array([1, 2.5], dtype=ml_dtypes.float8_e4m3fn),
        torch.tensor([1, 2.5]).bfloat16().requires_grad_(),
        torch.tensor([1, 0, 2.5]).to(torch.float8_e5m2)[::2],
    ],
)
def test_values_arrive_as_float64(x):
    array = as_float64(x, "x")
    assert array.dtype == np.float64
    np.testing.assert_array_equal(array, [1.0, 2.5])


def test_only_tensors_are_tensors():
    assert is_tensor(torch.zeros(1))
    assert not is_tensor(np.zeros(1))
    assert not is_tensor(1.0)
