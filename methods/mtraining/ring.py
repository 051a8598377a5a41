"""Sparse attention over a sequence that is spread over a ring of processes, and its backward.

Every process keeps its queries; keys and values travel. With ``nodes`` of ``G`` devices each, an inner ring hands them
round within a node, an outer one from node to node. A hop between nodes is begun first and takes place while the inner
ring makes its whole round. At step ``outer · G + inner``, device ``d`` of node ``n`` has the keys of device
``d - inner`` of node ``n - outer``. One node is a plain ring.

Partial results are merged by their log-sum-exp (:mod:`narrowgauge.methods.mtraining.partial`). Backward goes the same
way once more; the gradients of keys and values are added up in float32 and travel one step behind them, with one more
hop at the end of a round to come home. A step in which no query reads a key computes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from narrowgauge.methods.mtraining.index import Selection, SparseIndex, chosen, probe_logits, scores
from narrowgauge.methods.mtraining.mask import read_entries
from narrowgauge.methods.mtraining.partial import merge, partial_attention, partial_gradients
from narrowgauge.methods.mtraining.transport import Pending, Transport


@dataclass(frozen=True, slots=True)
class Topology:
    """``nodes`` of ``devices`` each; rank = node · devices + device."""

    nodes: int
    devices: int

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.devices < 1:
            raise ValueError(f"nodes, devices: expected at least 1 of each, got {self.nodes} and {self.devices}")

    @property
    def world(self) -> int:
        """How many processes there are."""
        return self.nodes * self.devices

    def rank(self, node: int, device: int) -> int:
        """Both are taken round the ring."""
        return node % self.nodes * self.devices + device % self.devices

    def holder(self, rank: int, outer: int, inner: int) -> int:
        """Whose keys ``rank`` has at a step."""
        node, device = divmod(rank, self.devices)
        return self.rank(node - outer, device - inner)

    def inner_peers(self, rank: int) -> tuple[int, int]:
        """(to whom, from whom) within the node."""
        node, device = divmod(rank, self.devices)
        return self.rank(node, device + 1), self.rank(node, device - 1)

    def outer_peers(self, rank: int) -> tuple[int, int]:
        """(to whom, from whom) between nodes."""
        node, device = divmod(rank, self.devices)
        return self.rank(node + 1, device), self.rank(node - 1, device)


Reads = Callable[[int], Tensor]
"""reads(rank): which of that rank's keys this rank's queries read, bool [B, H, n, n]."""


def ring_forward(
    transport: Transport, topology: Topology, q: Tensor, k: Tensor, v: Tensor, reads: Reads
) -> tuple[Tensor, Tensor]:
    """``out`` [B, H, n, D] and ``lse`` [B, H, n], float32, of this rank's queries over everybody's keys."""
    rank, inner_peers, outer_peers = _places(transport, topology)
    out, lse = q.new_zeros(q.shape, dtype=torch.float32), q.new_full(q.shape[:-1], float("-inf"), dtype=torch.float32)
    at_node: Sequence[Tensor] = (k, v)
    for outer in range(topology.nodes):
        between = transport.start(at_node, *outer_peers) if outer + 1 < topology.nodes else None
        held = at_node
        for inner in range(topology.devices):
            within = transport.start(held, *inner_peers) if inner + 1 < topology.devices else None
            mask = reads(topology.holder(rank, outer, inner))
            if mask.any():
                out, lse = merge(out, lse, *partial_attention(q, held[0], held[1], mask))
            held = held if within is None else within.wait()
        at_node = at_node if between is None else between.wait()
    return out, lse


def ring_backward(
    transport: Transport,
    topology: Topology,
    tensors: tuple[Tensor, Tensor, Tensor],
    whole: tuple[Tensor, Tensor],
    grad: Tensor,
    reads: Reads,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of this rank's q, k and v, float32; ``tensors`` are these, ``whole`` what :func:`ring_forward` gave."""
    rank, inner_peers, outer_peers = _places(transport, topology)
    q, k, v = tensors
    dq = q.new_zeros(q.shape, dtype=torch.float32)
    at_node: Sequence[Tensor] = (k, v)
    coming: Pending | None = None
    for outer in range(topology.nodes):
        between = transport.start(at_node, *outer_peers) if outer + 1 < topology.nodes else None
        held, behind = at_node, None
        for inner in range(topology.devices):
            within = transport.start(held, *inner_peers) if inner + 1 < topology.devices else None
            mask = reads(topology.holder(rank, outer, inner))
            if mask.any():
                more_dq, *grads = partial_gradients(q, held[0], held[1], mask, *whole, grad)
                dq = dq + more_dq
            else:
                grads = [x.new_zeros(x.shape, dtype=torch.float32) for x in held]
            behind = transport.start(_added(behind, grads), *inner_peers)
            held = held if within is None else within.wait()
        assert behind is not None
        coming = transport.start(_added(coming, behind.wait()), *outer_peers)
        at_node = at_node if between is None else between.wait()
    assert coming is not None
    dk, dv = coming.wait()
    return dq, dk, dv


def _places(transport: Transport, topology: Topology) -> tuple[int, tuple[int, int], tuple[int, int]]:
    if topology.world != transport.world:
        raise ValueError(f"topology: {topology} has {topology.world} processes, the transport {transport.world}")
    return transport.rank, topology.inner_peers(transport.rank), topology.outer_peers(transport.rank)


def _added(arriving: Pending | None, grads: Sequence[Tensor]) -> list[Tensor]:
    return list(grads) if arriving is None else [a + b for a, b in zip(arriving.wait(), grads, strict=True)]


class _RingAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, transport: Transport, topology: Topology, reads: Reads
    ) -> Tensor:
        out, lse = ring_forward(transport, topology, q, k, v, reads)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.way = transport, topology, reads
        return out.to(q.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        transport, topology, reads = ctx.way
        dq, dk, dv = ring_backward(transport, topology, (q, k, v), (out, lse), grad, reads)
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None, None, None


@dataclass(frozen=True, slots=True)
class RingAttention:
    """The attention of one rank's part of the sequence: an ``attend(q, k, v)`` for every layer of a model.

    ``positions`` int64 [world, n]: what each rank holds, as
    :func:`~narrowgauge.methods.mtraining.balance.shard_positions` gives it. q is [B, H, n, D], k and v [B, K, n, D],
    with rotary positions of the whole sequence. ``selection``: how the index is found, or ``None`` for dense causal
    attention. ``block``: the tile of diagonals.
    """

    transport: Transport
    topology: Topology
    positions: Tensor
    selection: Selection | None
    block: int = 64

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention output [B, H, n, D] of this rank's queries; collective, as is its backward."""
        index = None if self.selection is None else self.index(q, k, self.selection)
        reads = self._reads(q, index)
        out: Tensor = _RingAttention.apply(q, k, v, self.transport, self.topology, reads)  # type: ignore[no-untyped-call]
        return out

    def _reads(self, q: Tensor, index: SparseIndex | None) -> Reads:
        positions = self.positions.to(q.device)
        mine = positions[self.transport.rank]

        def reads(rank: int) -> Tensor:
            if index is None:
                return (mine[:, None] >= positions[rank]).expand(*q.shape[:2], -1, -1)
            return read_entries(index, mine, positions[rank], self.block)

        return reads

    @torch.no_grad()
    def index(self, q: Tensor, k: Tensor, selection: Selection) -> SparseIndex:
        """The index of the whole sequence, the same on every rank: probes, denominators and scores are gathered."""
        positions = self.positions.to(q.device)
        size, mine = positions.numel(), positions[self.transport.rank]
        probes_w = torch.arange(size - min(selection.probes, size), size, device=q.device)
        probes = q.new_zeros(*q.shape[:2], len(probes_w), q.shape[3])
        held = mine >= probes_w[0]
        probes[:, :, mine[held] - probes_w[0]] = q[:, :, held]
        probes = torch.stack(self.transport.gather(probes)).sum(dim=0)
        logits = probe_logits(probes, k, probes_w[:, None] >= mine)
        lse = torch.stack(self.transport.gather(logits.logsumexp(dim=-1))).logsumexp(dim=0)
        own = torch.stack(scores(logits, lse, probes_w, mine, size))
        columns, diagonals = torch.stack(self.transport.gather(own)).sum(dim=0)
        return chosen(columns, diagonals, selection)
