import math

import pytest
import torch
from torch import Tensor

from narrowgauge.methods.mtraining import Selection, SparseAttention, select_index
from narrowgauge.methods.mtraining.attention import attention_layers
from narrowgauge.train import Llama, LlamaConfig
from narrowgauge.train.blocks import causal_attention
from narrowgauge.train.kv_cache import KVCache

CONFIG = LlamaConfig(dim=32, num_layers=2, num_heads=4, num_kv_heads=2, ffn_dim=48, max_seq_len=32)
SELECTION = Selection(mass=0.5, probes=6, sinks=1, window=2)


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tensors() -> tuple[Tensor, Tensor, Tensor]:
    return 3 * gaussian(2, 4, 24, 8), gaussian(2, 2, 24, 8, seed=1), gaussian(2, 2, 24, 8, seed=2)


def test_mass_1_is_dense_attention_with_its_gradients() -> None:
    found = []
    for attend in (causal_attention, SparseAttention(Selection(mass=1.0, probes=4, sinks=0, window=1), 4)):
        leaves = [x.clone().requires_grad_() for x in tensors()]
        out = attend(*leaves)
        out.backward(gaussian(*out.shape, seed=3))
        found.append([out, *(x.grad for x in leaves)])
    for dense, sparse in zip(*found, strict=True):
        torch.testing.assert_close(sparse, dense, rtol=1e-5, atol=1e-5)


def test_what_is_not_kept_has_no_influence_and_no_gradient() -> None:
    q, k, v = (x[:1, :1].clone() for x in tensors())
    index = select_index(q, k, SELECTION)
    dropped = int((~index.columns[0, 0] & (torch.arange(24) < 12)).nonzero()[0])
    readers = torch.arange(24)[dropped:][~index.diagonals[0, 0, : 24 - dropped]]
    assert len(readers)
    attend = SparseAttention(SELECTION, block=1)
    v.requires_grad_()
    (attend(q, k, v)[0, 0, readers]).sum().backward()
    assert torch.equal(v.grad[0, 0, dropped], torch.zeros(8))
    assert v.grad.abs().sum() > 0


def test_density_is_the_kept_share_of_what_could_be_read() -> None:
    attend = SparseAttention(Selection(mass=1e-6, probes=4, sinks=0, window=1, max_columns=0, max_diagonals=0), block=1)
    assert math.isnan(attend.density)
    attend(*tensors())
    assert attend.density == pytest.approx(24 / (24 * 25 / 2))
    attend = SparseAttention(Selection(mass=1.0))
    attend(*tensors())
    assert attend.density == 1.0


def test_a_mask_is_kept_to() -> None:
    q, k, v = tensors()
    mask = torch.ones(24, 24).tril().bool() & (torch.arange(24) >= 5) | torch.eye(24).bool()
    dense, sparse = causal_attention, SparseAttention(Selection(mass=1.0))
    torch.testing.assert_close(sparse(q, k, v, mask[None, None]), dense(q, k, v, mask[None, None]))
    attend = SparseAttention(SELECTION, 4)
    changed = v.clone()
    changed[:, :, :5] += 1
    first, second = (attend(q, k, values, mask[None, None])[:, :, 5:] for values in (v, changed))
    assert torch.equal(first, second)


def test_a_model_with_a_cache_takes_it() -> None:
    model = Llama(CONFIG)
    for layer in attention_layers(model):
        layer.attend = SparseAttention(Selection(mass=1.0), 4)
    ids = torch.randint(0, 256, (2, 12), generator=torch.Generator().manual_seed(0))
    cache = KVCache(12)
    with torch.no_grad():
        parts = [model(part, cache) for part in ids.split([7, 1, 4], dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), model(ids), rtol=1e-4, atol=1e-5)


def test_an_impossible_block_is_refused() -> None:
    with pytest.raises(ValueError, match="block: expected at least 1, got 0"):
        SparseAttention(SELECTION, 0)
