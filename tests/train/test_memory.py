import sys

import pytest
import torch

from narrowgauge.train.memory import memory_bytes


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_resident_memory_grows_with_what_is_touched() -> None:
    before = memory_bytes(torch.device("cpu"))
    block = torch.ones(16 * 2**20)  # 64 MiB
    after = memory_bytes(torch.device("cpu"))
    assert before is not None
    assert after is not None
    assert after - before > 0.9 * block.nbytes


@pytest.mark.gpu
def test_cuda_memory_is_the_peak() -> None:
    device = torch.device("cuda")
    torch.cuda.reset_peak_memory_stats(device)
    torch.ones(2**20, device=device)
    peak = memory_bytes(device)
    assert peak is not None
    assert peak >= 4 * 2**20
