"""FP8 layers under DDP or FSDP2. Alone it is one process; torchrun makes it several, which share the batch.

python examples/two_processes.py
torchrun --nproc-per-node 2 examples/two_processes.py
torchrun --nproc-per-node 2 examples/two_processes.py --ddp
"""

import os
import sys

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import narrowgauge as ng

rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
if world > 1:
    dist.init_process_group("gloo")

model = ng.train.Llama(ng.train.LlamaConfig.preset("tiny"))  # the same weights in every process, by its seed
# The scales of mxfp8 are those of 32 tokens at most, so that it does not matter which process has which tokens.
ng.convert(model, "mxfp8")
wrapped: torch.nn.Module = model
if world > 1 and "--ddp" in sys.argv:
    wrapped = DistributedDataParallel(model)
elif world > 1:
    for block in model.layers:
        fully_shard(block)
    fully_shard(model)
optimizer = ng.optim.AdamW(wrapped.parameters(), lr=2e-3, state="log8")  # its states are shards where parameters are

text = ng.train.ByteCorpus(max_bytes=1_000_000)
for step in range(16):
    batch = text.batch(step, batch_size=8, seq_len=64)
    mine = {name: tensor.chunk(world)[rank] for name, tensor in batch.items()}
    loss = ng.train.cross_entropy(wrapped, mine)
    optimizer.zero_grad()
    loss.backward()  # gradients are averaged over the processes
    optimizer.step()
    mean = loss.detach().clone()
    if world > 1:
        dist.all_reduce(mean)
    if rank == 0 and step % 5 == 0:
        print(f"step {step}: {mean.item() / world:.4f} nats per byte")

if rank == 0:
    print(ng.explain(model))
    print(optimizer.explain())
if world > 1:
    dist.barrier()  # nobody leaves while others still need it
    dist.destroy_process_group()
