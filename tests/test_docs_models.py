"""The examples of docs/models.md run as written and say what they promise."""

import re
from pathlib import Path
from typing import Any

import torch

PAGE = Path(__file__).parent.parent / "docs" / "models.md"


def examples() -> list[dict[str, Any]]:
    """What each example of the page leaves behind, in order."""
    left = []
    for source in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        names: dict[str, Any] = {}
        exec(source, names)
        left.append(names)
    return left


def test_examples_of_the_page() -> None:
    generation, attention, encoder, seq2seq, classifier = examples()
    assert len(generation["rollouts"].ids) == 8
    assert generation["loss"].isfinite()

    ids = torch.arange(64)[None]
    other = ids.clone()
    other[0, 0] = 99
    # Two layers with a window of 16 look 30 positions back.
    changed = (attention["model"](ids) != attention["model"](other)).any(-1)[0]
    assert changed[:31].all()
    assert not changed[31:].any()

    assert encoder["metrics"]["loss"] < 5.0  # ln 260 = 5.56 at the start
    assert [bytes(target) for target in seq2seq["targets"]] == [b"NARROW", b"GAUGE", b"TRAIN"]
    assert classifier["right"] > 0.9
    assert classifier["logits"].shape == (400, 1, 4)


def test_the_table_of_sizes_is_that_of_the_presets() -> None:
    from narrowgauge.train import LlamaConfig

    rows = re.findall(r"^\| `(\w+)` \| (.*) \| [\d,]+ \|$", PAGE.read_text(), re.MULTILINE)
    assert [name for name, _ in rows] == list(LlamaConfig.preset_names())
    for name, cells in rows:
        config = LlamaConfig.preset(name)
        heads = f"{config.num_heads} / {config.num_kv_heads}"
        sizes = (config.dim, config.num_layers, heads, config.ffn_dim, config.max_seq_len)
        assert cells == " | ".join(map(str, sizes))
