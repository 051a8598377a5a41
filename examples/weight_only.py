"""A trained model as codes for inference: int8 rows, int4 groups, NF4; what each takes, and what it loses.

python examples/weight_only.py
"""

import copy

import torch
from torch import nn

import narrowgauge as ng
from narrowgauge.nn.inference import quantize_for_inference

text = ng.train.ByteCorpus(max_bytes=1_000_000)
model = ng.train.Llama(ng.train.LlamaConfig.preset("tiny"))
optimizer = ng.optim.AdamW(model.parameters(), lr=3e-3)
for step in range(40):
    loss = ng.train.cross_entropy(model, text.batch(step, batch_size=8, seq_len=64))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
model.eval()
batch = text.validation(1, batch_size=8, seq_len=64)[0]


def size(model: nn.Module) -> float:
    return sum(tensor.nbytes for tensor in model.layers.state_dict().values()) / 1e3


@torch.no_grad()
def measure(name: str, model: nn.Module) -> None:
    logits = model(batch["input_ids"])
    loss = ng.train.cross_entropy(model, batch).item()
    noise = ng.numerics.sqnr_db(logits, reference) if name != "float32" else float("inf")
    print(f"{name:24} {size(model):8.1f} kB {loss:9.4f} nats {noise:8.1f} dB")


with torch.no_grad():
    reference = model(batch["input_ids"])
measure("float32", model)
for name, weight, input in (
    ("W8A16 int8/row", "int8/row", None),
    ("W8A8  int8/row", "int8/row", "int8/row"),
    ("W8A8  e4m3fn/row", "e4m3fn/row", "e4m3fn/row"),
    ("W4A16 int4/1x64", "int4/1x64", None),
    ("W4A16 nf4/1x64", "nf4/1x64", None),
    ("W4A16 nvfp4", "nvfp4", None),
):
    quantised = quantize_for_inference(copy.deepcopy(model), weight, input)
    measure(name, quantised)
print(quantised.layers[0].mlp.up_proj)
