"""QLoRA: the weights are frozen in NF4, half a byte each, and small adapters learn beside them.

python examples/qlora.py
"""

import io

import torch
from torch import nn

import narrowgauge as ng
from narrowgauge.nn.adapters import add_lora, load_lora_state_dict, lora_parameters, lora_state_dict, merge_lora

text = ng.train.ByteCorpus(max_bytes=1_000_000)


def train(model: nn.Module, parameters: list[nn.Parameter], lr: float, seed: int, steps: int = 25) -> float:
    optimizer = ng.optim.AdamW(parameters, lr=lr, state="log8")
    for step in range(steps):
        loss = ng.train.cross_entropy(model, text.batch(step, batch_size=8, seq_len=64, seed=seed))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def size(model: nn.Module) -> str:
    layers = model.layers.state_dict()
    return f"{sum(tensor.nbytes for name, tensor in layers.items() if 'lora' not in name) / 1e6:.3f} MB"


model = ng.train.Llama(ng.train.LlamaConfig.preset("tiny"))
print(f"the base, trained in fp32: {train(model, list(model.parameters()), 3e-3, seed=0):.3f} nats, {size(model)}")

torch.manual_seed(0)
add_lora(model, rank=8, alpha=16, base="nf4")  # every linear layer but lm_head
print(model.layers[0].self_attn.q_proj)
adapters = lora_parameters(model)
trained = sum(parameter.numel() for parameter in adapters)
print(f"{trained:,} parameters learn beside a base of {size(model)}")
print(f"with adapters: {train(model, adapters, 1e-3, seed=1):.3f} nats")

file = io.BytesIO()
torch.save(lora_state_dict(model), file)  # A and B alone
print(f"the adapters' file: {file.tell() / 1e3:.0f} kB")
file.seek(0)
load_lora_state_dict(model, torch.load(file))

batch = text.validation(1, batch_size=4, seq_len=64)[0]
with torch.no_grad():
    before = model(batch["input_ids"])
    merge_lora(model)  # plain nn.Linear layers again
    after = model(batch["input_ids"])
print(f"merged: {type(model.layers[0].self_attn.q_proj).__name__}, logits moved by {(after - before).abs().max():.1e}")
