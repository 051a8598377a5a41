"""Training without a float32 copy of the weights: on an int8 grid (DQT), and in E4M3 with ECO's momentum.

python examples/no_float_master.py
"""

import torch

import narrowgauge as ng

text = ng.train.ByteCorpus(max_bytes=1_000_000)


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int = 40) -> list[float]:
    losses = []
    for step in range(steps):
        loss = ng.train.cross_entropy(model, text.batch(step, batch_size=8, seq_len=64))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def llama() -> ng.train.Llama:
    return ng.train.Llama(ng.train.LlamaConfig.preset("tiny"))


plain = llama()
losses = train(plain, ng.optim.AdamW(plain.parameters(), lr=3e-3, state="log8"))
print(f"float32 weights: {losses[0]:.3f} → {losses[-1]:.3f} nats")

# DQT (arXiv 2412.04787): after each step every weight is rounded, at random and right on average, to an int8 code.
model = ng.convert(llama(), "dqt8")
optimizer = ng.optim.AdamW(model.parameters(), lr=3e-3, state="log8")
grid = ng.nn.GridWeights(model, seed=0).attach(optimizer)
losses = train(model, optimizer)
codes, scale = grid.codes("layers.0.mlp.up_proj")
weight = model.layers[0].mlp.up_proj.weight
exact = torch.equal(codes.view(torch.int8).float() * scale, weight.detach())
print(f"int8 weights:    {losses[0]:.3f} → {losses[-1]:.3f} nats; code times scale is the weight: {exact}")

# ECO (arXiv 2601.22101): E4M3 weights; what rounding leaves over goes into the momentum, which keeps it.
model = ng.convert(llama(), "eco")
matrices = [layer.weight for layer in model.modules() if isinstance(layer, ng.QuantLinear)]
chosen = {id(weight) for weight in matrices}
others = [parameter for parameter in model.parameters() if id(parameter) not in chosen]
groups = [{"params": matrices, "master": "eco:e4m3fn/1x128"}, {"params": others}]
optimizer = ng.optim.AdamW(groups, lr=3e-3, state="log8")
losses = train(model, optimizer)
print(f"E4M3 weights:    {losses[0]:.3f} → {losses[-1]:.3f} nats")
print(optimizer.explain())
