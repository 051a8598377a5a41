"""Models that a new process loads give the same logits, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import narrowgauge as ng
from narrowgauge.formats import CodebookFormat, Scheme
from narrowgauge.nn import Recipe, recipe
from narrowgauge.nn.files import export
from narrowgauge.train import Llama, LlamaConfig
from other_process import run_program

SMALL = LlamaConfig(dim=32, num_layers=2, num_heads=4, num_kv_heads=2, ffn_dim=48, max_seq_len=16)
IDS = torch.arange(24).view(2, 12)
OWN = CodebookFormat.from_values([-2.5, -1.0, -0.3, -0.1, 0.1, 0.3, 1.0, 2.5], name="eight_of_mine")


PLANS = {
    "fp8_row": "fp8_row",
    "drawn": recipe("drawn", x_fprop="e4m3fn/row", w_fprop="nvfp4", g_dgrad="e5m2+sr", g_wgrad="e5m2+sr"),
    "mine": recipe("mine", w_fprop=Scheme(OWN, (1, 16))),
}


def trained_small(plan: str | Recipe) -> nn.Module:
    model = ng.convert(Llama(SMALL, seed=0), plan)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        model(IDS).float().square().mean().backward()
        optimizer.step()
    return model


def test_small_llamas(tmp_path: Path) -> None:
    expected = {}
    for name, plan in PLANS.items():
        for weights in (None, "recipe"):
            model, label = trained_small(plan), f"{name}-{weights}"
            export(model, tmp_path / f"{label}.safetensors", weights=weights)
            with torch.no_grad():
                expected[label] = model(IDS).numpy()
    program = """
        import sys
        from pathlib import Path
        import numpy as np
        import torch
        from narrowgauge.nn.files import load
        from narrowgauge.train import Llama, LlamaConfig

        torch.set_num_threads(int(sys.argv[2]))
        config = LlamaConfig(dim=32, num_layers=2, num_heads=4, num_kv_heads=2, ffn_dim=48, max_seq_len=16)
        found = {}
        for path in Path(sys.argv[1]).iterdir():
            model = load(Llama(config, seed=1), path)
            with torch.no_grad():
                found[path.stem] = model(torch.arange(24).view(2, 12)).numpy()
        np.savez(sys.argv[1] + "/found.npz", **found)
    """
    run_program(program, tmp_path, torch.get_num_threads())
    with np.load(tmp_path / "found.npz") as found:
        assert found.keys() == expected.keys()
        for label, logits in expected.items():
            np.testing.assert_array_equal(found[label], logits, err_msg=label)


LLAMA = {
    "vocab_size": 8000, "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 9,
    "num_attention_heads": 6, "num_key_value_heads": 3, "max_position_embeddings": 128, "tie_word_embeddings": False,
}  # fmt: skip


@pytest.mark.slow
def test_a_llama_of_transformers_with_20_million_parameters_after_50_steps(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA))
    assert sum(parameter.numel() for parameter in model.parameters()) >= 20_000_000
    ng.convert(model, "fp8_row")
    optimizer = ng.optim.AdamW(model.parameters(), lr=1e-3)
    ids = torch.randint(0, 8000, (2, 32), generator=torch.Generator().manual_seed(1))
    losses = []
    for _ in range(50):
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    for name, weights in (("masters", None), ("codes", "recipe")):
        export(model, tmp_path / f"{name}.safetensors", weights=weights)
    model.eval()
    with torch.no_grad():
        expected = model(input_ids=ids).logits.numpy()
    program = f"""
        import sys
        import numpy as np
        import torch
        import transformers
        from narrowgauge.nn.files import load

        torch.set_num_threads(int(sys.argv[2]))
        ids = torch.randint(0, 8000, (2, 32), generator=torch.Generator().manual_seed(1))
        for name in ("masters", "codes"):
            model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{LLAMA!r}))
            load(model, sys.argv[1] + f"/{{name}}.safetensors").eval()
            with torch.no_grad():
                np.save(sys.argv[1] + f"/{{name}}.npy", model(input_ids=ids).logits.numpy())
    """
    run_program(program, tmp_path, torch.get_num_threads())
    for name in ("masters", "codes"):
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), expected, err_msg=name)
