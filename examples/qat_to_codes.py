"""Quantization-aware training, then true codes: LSQ with 4-bit weights, and the ternary weights of BitNet b1.58.

python examples/qat_to_codes.py
"""

import torch

import narrowgauge as ng
from narrowgauge.nn.qat import after_step, freeze_qat, prepare_qat, qat, quantizer_parameters

text = ng.train.ByteCorpus(max_bytes=1_000_000)
validation = text.validation(1, batch_size=4, seq_len=64)[0]

for config in (qat("lsq", bits=4, granularity="row"), qat("bitnet_b158")):
    model = ng.train.Llama(ng.train.LlamaConfig.preset("tiny"))
    prepare_qat(model, config)
    steps = quantizer_parameters(model)  # LSQ's learned step sizes; BitNet learns none
    learned = {id(parameter) for parameter in steps}
    others = [parameter for parameter in model.parameters() if id(parameter) not in learned]
    groups = [{"params": others}, {"params": steps, "lr": 1e-3, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=2e-3)
    for step in range(30):
        loss = ng.train.cross_entropy(model, text.batch(step, batch_size=8, seq_len=64))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        after_step(model)

    model.eval()
    with torch.no_grad():
        before = model(validation["input_ids"])
        freeze_qat(model)  # in place: codes and scales instead of weights
        after = model(validation["input_ids"])
    layer = model.layers[0].mlp.up_proj
    weights = layer.dequantize()
    print(f"{config.name}: {loss.item():.3f} nats, {len(steps)} learned steps")
    print(f"  frozen: {layer}")
    print(f"  first row: {len(weights[0].unique())} values, {weights[0, :4].tolist()}")
    print(f"  largest logit {before.abs().max():.2f}, frozen and trained differ by {(after - before).abs().max():.1e}")
