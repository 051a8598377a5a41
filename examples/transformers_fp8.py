"""A Llama of `transformers` in FP8, with compressed optimizer states and activations: convert, train, save, load.

python examples/transformers_fp8.py
"""

import tempfile
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import narrowgauge as ng

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=256,
    hidden_size=128,
    intermediate_size=384,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    use_cache=False,
)
model = LlamaForCausalLM(config)  # random weights; nothing is downloaded
ng.convert(model, "fp8_row", overrides={"*.down_proj": "mxfp8"})  # everything but lm_head
print(ng.explain(model))

optimizer = ng.optim.AdamW(model.parameters(), lr=2e-3, state="log8")
text = ng.train.ByteCorpus(max_bytes=1_000_000)
for step in range(31):
    batch = text.batch(step, batch_size=8, seq_len=64)
    with ng.compress_activations(model):
        logits = model(batch["input_ids"]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 10 == 0:
        print(f"step {step}: {loss.item():.3f} nats per byte")
print(optimizer.explain())

ids = text.validation(1, batch_size=2, seq_len=64)[0]["input_ids"]
model.eval()
with tempfile.TemporaryDirectory() as folder, torch.no_grad():
    # The high-precision weights, to go on training; and the codes that the forward pass makes of them.
    for name, weights in (("training.safetensors", None), ("codes.safetensors", "recipe")):
        file = Path(folder) / name
        ng.export(model, file, weights=weights)
        again = ng.load(LlamaForCausalLM(config), file).eval()
        same = torch.equal(again(ids).logits, model(ids).logits)
        print(f"{name}: {file.stat().st_size / 1e6:.2f} MB, the same logits: {same}")
