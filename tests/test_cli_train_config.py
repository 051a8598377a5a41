"""Settings of `narrowgauge train`: one dataclass, its TOML file, its flags."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from narrowgauge.commands import train
from narrowgauge.commands.train_config import TrainConfig, leaves, merge, method_text, read_toml
from narrowgauge.commands.train_flags import given
from narrowgauge.commands.train_settings import Sizes, Stopping
from narrowgauge.commands.train_toml import to_toml


def of_flags(*words: str) -> TrainConfig:
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    return merge({}, given(parser.parse_args(words)))


def of_toml(text: str, folder: Path) -> TrainConfig:
    file = folder / "run.toml"
    file.write_text(text, encoding="utf-8")
    return merge(read_toml(file), {})


# Nothing is at its default, so that a setting that is lost anywhere is seen.
OTHERWISE = TrainConfig(
    data='a "quoted" \\ path\x7f\n/ä.txt', text_field="body", max_bytes=9999, tokenizer="bpe:x.json", batch_size=3,
    seq_len=16, seed=5, model="tiny", recipe="mxfp8", state="fp32", dtype="bfloat16", steps=7, grad_accumulation=2,
    lr=1e-05, schedule="constant", warmup=2, final_ratio=0.5, weight_decay=0.0, clip_norm=0.0,
    methods=("ema:decay=0.9", "migu"), eval_every=3, validation_batches=1, save_every=4, keep=5, loggers=("csv",),
    log_every=1, plot=False, out="runs/x y", device="cpu", compile=True, parallel="ddp",
    sizes=Sizes(dim=64, num_layers=3, num_heads=4, num_kv_heads=1, ffn_dim=96, max_seq_len=64, rope_theta=500.0,
                norm_eps=1e-6, tie_embeddings=True),
    early_stopping=Stopping(patience=2, min_delta=0.25, metric="ema_val_loss", mode="max"),
)  # fmt: skip


def values(config: TrainConfig) -> dict[str, Any]:
    plain = dataclasses.asdict(config)
    return {name: plain[name.partition(".")[0]] if "." not in name else plain[name.partition(".")[0]][
        name.partition(".")[2]] for name in leaves()}  # fmt: skip


def test_the_example_has_no_default() -> None:
    default = values(TrainConfig())
    assert [name for name, value in values(OTHERWISE).items() if value == default[name]] == []


def test_what_is_written_as_toml_reads_back(tmp_path: Path) -> None:
    assert of_toml(to_toml(OTHERWISE), tmp_path) == OTHERWISE
    assert of_toml(to_toml(TrainConfig()), tmp_path) == TrainConfig()


def test_every_setting_has_a_flag_that_gives_the_same() -> None:
    words = []
    for name, value in values(OTHERWISE).items():
        flag = "--" + name.replace("_", "-").replace(".", "-")
        if name == "methods":
            words += [word for method in value for word in ("--method", method)]
        elif isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            words += [flag, ",".join(value) if isinstance(value, tuple) else str(value)]
    assert of_flags(*words) == OTHERWISE


def test_the_example_file_is_read() -> None:
    config = merge(read_toml(Path(__file__).resolve().parent.parent / "examples" / "train.toml"), {})
    assert (config.data, config.methods) == ("code=1.0..0.25,topics=0.0..0.75", ("ema:decay=0.98",))
    assert config.early_stopping == Stopping(patience=4, min_delta=0.005)


@pytest.mark.parametrize(
    "settings",
    [{}, {"decay": 0.5, "n": 3}, {"on": True, "kind": "a.b/c"}, {"kind": "true", "other": "1", "text": "a,b=[c"},
     {"sizes": (1, 2), "names": ("x,y", "z"), "last": None}],
)  # fmt: skip
def test_a_method_on_one_line_is_read_back(settings: dict[str, Any]) -> None:
    from narrowgauge.commands.train_methods import parse_method

    lists = {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
    assert parse_method(method_text("x", lists)) == ("x", settings)


def test_flags_go_over_the_file_also_inside_a_table(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("steps = 9\nplot = false\n[sizes]\nnum-layers = 3\ndim = 64\n[early_stopping]\nmin_delta = 1\n")
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    words = [str(file), "--steps", "3", "--sizes-dim", "128", "--early-stopping-patience", "4", "--plot"]
    config = merge(read_toml(file), given(parser.parse_args(words)))
    assert (config.steps, config.plot) == (3, True)
    assert config.sizes == Sizes(num_layers=3, dim=128)
    assert config.early_stopping == Stopping(patience=4, min_delta=1.0)


def test_tables_of_sources_and_methods_are_their_text(tmp_path: Path) -> None:
    config = of_toml(
        '[data]\ncode = 0.7\n"my/text.txt" = [1, 0.5]\n[methods.ema]\ndecay = 0.9\n[methods.migu]\n', tmp_path
    )
    assert config.data == "code=0.7,my/text.txt=1..0.5"
    assert config.methods == ("ema:decay=0.9", "migu")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stpes = 3", "unknown key 'stpes'; did you mean 'steps'?"),
        ("patience = 3", "unknown key 'patience'; did you mean 'early_stopping.patience'?"),
        ("[early_stopping]\npatiense = 3", "unknown key 'early_stopping.patiense'; did you mean 'early_stopping.pati"),
        ("[early_stoping]\npatience = 3", "unknown key 'early_stoping'; did you mean 'early_stopping'?"),
        ("[sizes]\nnum-layer = 3", "unknown key 'sizes.num-layer'; did you mean 'sizes.num_layers'?"),
        ("[sizes]\nzzz = 3", "unknown key 'sizes.zzz'; known: sizes.dim, sizes.num_layers"),
        ("zzz = 3", "unknown key 'zzz'; known: sizes, early_stopping, data,"),
        ("sizes = 3", "sizes: expected a table with dim, num_layers"),
        ("[sizes]\ndim = '64'", "sizes.dim: expected int, got '64'"),
        ("steps = true", "steps: expected int, got True"),
        ("steps = 2.5", "steps: expected int, got 2.5"),
        ("compile = 1", "compile: expected bool, got 1"),
        ("[steps]\nn = 1", "steps: expected int, got {'n': 1}"),
        ("methods = 'ema'", "methods: expected a list of strings"),
        ("[methods]\nema = 0.9", "methods: expected a table [methods.ema]"),
        ("[data]\ncode = 'much'", "data: expected name = weight or name = [first, last]"),
        ("[data]\n'a,b' = 1", "data: expected name = weight"),
        ("schedule = 'cosin'", "schedule: expected cosine or constant, got 'cosin'; did you mean 'cosine'?"),
        ("dtype = 'float16'", "dtype: expected float32 or bfloat16, got 'float16'"),
        ("parallel = 'fsdp'", "parallel: expected ddp or fsdp2, got 'fsdp'; did you mean 'fsdp2'?"),
        ("loggers = ['jsonl', 'cvs']", "loggers: expected console or jsonl or csv or tensorboard, got 'cvs'"),
        ("loggers = ['csv', 'csv']", "loggers: expected each once, got csv, csv"),
        ("[early_stopping]\nmode = 'mean'", "early_stopping.mode: expected min or max, got 'mean'"),
        ("[early_stopping]\npatience = -1", "early_stopping.patience: expected 0 or more, got -1"),
        ("lr = 0", "lr: expected a finite number above 0, got 0.0"),
        ("lr = nan", "lr: expected a finite number above 0, got nan"),
        ("clip_norm = -1", "clip_norm: expected 0 or more, got -1.0"),
        ("warmup = -1", "warmup: expected 0 or more, got -1"),
        ("steps 3", "is not TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared as text
        of_toml(text, tmp_path)
    assert message in str(caught.value)


def test_what_the_help_names_is_what_the_library_has() -> None:
    from narrowgauge.train import DOMAINS, LlamaConfig
    from narrowgauge.train.amp import AMP_DTYPES
    from narrowgauge.train.distributed import PARALLEL

    texts = {name: field.metadata for name, (field, _) in leaves().items()}
    assert ", ".join(DOMAINS) in texts["data"]["text"]
    assert ", ".join(LlamaConfig.preset_names()) in texts["model"]["text"]
    assert texts["dtype"]["choices"] == AMP_DTYPES
    assert texts["parallel"]["choices"] == PARALLEL
    sizes = {field.name for field in dataclasses.fields(LlamaConfig)} - {"vocab_size"}
    assert {field.name for field in dataclasses.fields(Sizes)} == sizes
