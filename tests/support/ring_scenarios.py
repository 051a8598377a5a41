"""What every rank of a ring does, in threads or in processes: its part of an attention or a model against the whole.

    python ring_scenarios.py RANK NODES DEVICES FOLDER

is one process of a gloo group; it writes FOLDER/RANK.json: scenario → "" or the traceback of what failed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from narrowgauge.methods.mtraining import (
    ProcessTransport,
    RingAttention,
    Selection,
    SparseAttention,
    Topology,
    Transport,
    add_gradients,
    read_entries,
    select_index,
    shard,
    shard_positions,
    spread_context_,
)
from narrowgauge.train import Llama, LlamaConfig
from shard_scenarios import attempt, group

SIZE, BLOCK = 48, 2
SELECTION = Selection(mass=0.6, probes=10, sinks=1, window=2)


def gaussian(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def close(actual: Tensor, expected: Tensor) -> None:
    """To what another order of sums makes, of the largest value."""
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5 * float(expected.detach().abs().max()))


def attention_is_that_of_one_device(transport: Transport, topology: Topology, layout: str) -> None:
    """Index, output and all three gradients, sparse and dense; 4 query heads over 2 key heads."""
    q, k, v, grad = (
        gaussian(2, heads, SIZE, 8, seed=seed) * scale
        for seed, (heads, scale) in enumerate([(4, 3.0), (2, 1.0), (2, 1.0), (4, 1.0)])
    )
    everywhere = torch.arange(SIZE)
    positions = shard_positions(SIZE, topology.world, BLOCK, layout)
    for selection in (SELECTION, None):
        whole = [x.clone().requires_grad_() for x in (q, k, v)]
        mask = torch.ones(SIZE, SIZE).tril().bool()
        attend = RingAttention(transport, topology, positions, selection, BLOCK)
        parts = [shard(x, positions, dim=2)[transport.rank].requires_grad_() for x in (q, k, v)]
        if selection is not None:
            index = select_index(q, k, selection)
            found = attend.index(parts[0], parts[1], selection)
            assert torch.equal(found.columns, index.columns)
            assert torch.equal(found.diagonals, index.diagonals)
            mask = read_entries(index, everywhere, everywhere, BLOCK)
            assert 0.1 < mask.float().mean() < 0.45
        expected = F.scaled_dot_product_attention(*whole, attn_mask=mask, enable_gqa=True)
        expected.backward(grad)
        actual = attend(*parts)
        actual.backward(shard(grad, positions, dim=2)[transport.rank])
        close(actual, shard(expected, positions, dim=2)[transport.rank])
        for part, one in zip(parts, whole, strict=True):
            close(part.grad, shard(one.grad, positions, dim=2)[transport.rank])


def a_model_is_that_of_one_device(transport: Transport, topology: Topology) -> None:
    """Logits and the gradients of all weights, with rotary positions of the whole sequence."""
    config = LlamaConfig(dim=32, num_layers=2, num_heads=4, num_kv_heads=2, ffn_dim=48, max_seq_len=SIZE)
    ids = torch.randint(0, 256, (2, SIZE), generator=torch.Generator().manual_seed(0))
    positions = shard_positions(SIZE, topology.world, BLOCK)
    alone, spread = Llama(config), Llama(config)
    for layer in alone.layers:
        layer.self_attn.attend = SparseAttention(SELECTION, BLOCK)
    spread_context_(spread, RingAttention(transport, topology, positions, SELECTION, BLOCK))
    whole, part = alone(ids), spread(shard(ids, positions)[transport.rank])
    close(part, shard(whole, positions, dim=1)[transport.rank])
    whole.square().sum().backward()
    part.square().sum().backward()
    add_gradients(spread.parameters(), transport)
    for one, other in zip(spread.parameters(), alone.parameters(), strict=True):
        close(one.grad, other.grad)


def main(rank: int, topology: Topology, folder: Path) -> None:
    results: dict[str, str] = {}
    with group(folder, rank, topology.world, "ring"):
        transport = ProcessTransport()
        for layout in ("contiguous", "zigzag", "striped"):
            attempt(results, layout, lambda layout=layout: attention_is_that_of_one_device(transport, topology, layout))
        attempt(results, "model", lambda: a_model_is_that_of_one_device(transport, topology))
    (folder / f"{rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    torch.set_num_threads(1)
    rank, nodes, devices = map(int, sys.argv[1:4])
    main(rank, Topology(nodes, devices), Path(sys.argv[4]))
