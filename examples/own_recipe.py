"""A recipe of your own: write it, see what it does to a layer, have it checked, train with it.

python examples/own_recipe.py
"""

import torch

import narrowgauge as ng

# FP8 forward; backward in rotated FP4, rounded stochastically. The same as a file: `narrowgauge recipes NAME --toml`.
BACKWARD = "mxfp4:rceil+sr+rht64fresh+gain0.75"
mine = ng.nn.recipe("mine", x_fprop="e4m3fn/row", w_fprop="e4m3fn/row", g=BACKWARD, w_dgrad=BACKWARD, x_wgrad=BACKWARD)

torch.manual_seed(0)
layer = ng.QuantLinear(128, 64, recipe=mine)

# Forward and both gradients against float64 products of the quantised operands; stochastic slots must be unbiased.
print(ng.numerics.check_module(layer, seeds=24).table())

model = ng.train.Llama(ng.train.LlamaConfig.preset("tiny"))
ng.convert(model, mine, overrides={"*.down_proj": "fp8_row"})
print(ng.explain(model))

optimizer = ng.optim.AdamW(model.parameters(), lr=2e-3, state="log8")
text = ng.train.ByteCorpus()
for step in range(20):
    loss = ng.train.cross_entropy(model, text.batch(step=step, batch_size=4, seq_len=64))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 5 == 0:
        print(f"step {step}: {loss.item():.3f} nats per byte")
