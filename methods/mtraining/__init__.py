"""MTraining: dynamic sparse attention while training, and a balanced ring of processes to compute it.

Paper: Li, Zhang, Jiang, Li, Yang, Qiu, "MTraining: Distributed Dynamic Sparse Attention for Efficient Ultra-Long
Context Training", MLSys 2026, arXiv:2510.18830.

Mechanism. At every forward the last queries show which columns and diagonals of the attention matrix have most of its
mass (:mod:`~narrowgauge.methods.mtraining.index`); only these are computed, forward and backward, diagonals in tiles
(:mod:`~narrowgauge.methods.mtraining.mask`). A long sequence is dealt out to processes tile by tile, in stripes, so
that every one has the same share of every diagonal (:mod:`~narrowgauge.methods.mtraining.balance`); keys and values
travel round a ring, or a ring of rings (:mod:`~narrowgauge.methods.mtraining.ring`), and partial results are merged by
their log-sum-exp (:mod:`~narrowgauge.methods.mtraining.partial`).

Chosen here: query heads have an index each, also where they share keys; the entry that crosses the mass bound is kept
(the released code drops it, which can select nothing); a mass of 1 keeps everything. Within one process, entries that
are not kept are masked, not skipped: numbers are those of the method, times are not. A ring leaves out steps in which
nothing is read.
"""

from narrowgauge.methods.mtraining.attention import SparseAttention
from narrowgauge.methods.mtraining.balance import (
    Layout,
    imbalance,
    ring_work,
    shard,
    shard_positions,
    step_imbalance,
    tile_owners,
    unshard,
)
from narrowgauge.methods.mtraining.context import add_gradients, spread_context_
from narrowgauge.methods.mtraining.index import Selection, SparseIndex, select_index
from narrowgauge.methods.mtraining.mask import crossed_tiles, read_entries, tile_work
from narrowgauge.methods.mtraining.method import MTraining
from narrowgauge.methods.mtraining.partial import merge, partial_attention, partial_gradients
from narrowgauge.methods.mtraining.ring import RingAttention, Topology, ring_backward, ring_forward
from narrowgauge.methods.mtraining.transport import ProcessTransport, ThreadTransport, Transport, run_threads

__all__ = [
    "Layout",
    "MTraining",
    "ProcessTransport",
    "RingAttention",
    "Selection",
    "SparseAttention",
    "SparseIndex",
    "ThreadTransport",
    "Topology",
    "Transport",
    "add_gradients",
    "crossed_tiles",
    "imbalance",
    "merge",
    "partial_attention",
    "partial_gradients",
    "read_entries",
    "ring_backward",
    "ring_forward",
    "ring_work",
    "run_threads",
    "select_index",
    "shard",
    "shard_positions",
    "spread_context_",
    "step_imbalance",
    "tile_owners",
    "tile_work",
    "unshard",
]
