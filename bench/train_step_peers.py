"""Other people's emulated low-precision linear layers in the same model, where they are installed.

Both run on any device, as they quantise to values and multiply those in float32. microxcaling is not on PyPI; a
checkout of its repository on the path serves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module

from torch import nn

from narrowgauge.bench.peer import installed

Convert = Callable[[nn.Module], nn.Module]
HEAD = "lm_head"
"""The layer that ours leaves alone, too."""
MX_SPECS = {
    "w_elem_format": "fp8_e4m3",
    "a_elem_format": "fp8_e4m3",
    "scale_bits": 8,
    "block_size": 32,
    "bfloat": 0,
    "round": "even",
    "custom_cuda": False,
}


def _torchao(name: str) -> Convert:
    def convert(model: nn.Module) -> nn.Module:
        installed("torchao")
        float8 = installed("torchao.float8")
        config = replace(float8.Float8LinearConfig.from_recipe_name(name), emulate=True)
        converted: nn.Module = float8.convert_to_float8_training(
            model, config=config, module_filter_fn=lambda layer, path: path != HEAD
        )
        return converted

    return convert


def _microxcaling(model: nn.Module) -> nn.Module:
    mx = installed("mx")
    specs = import_module("mx.specs").finalize_mx_specs(dict(MX_SPECS))
    for path, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and path != HEAD:
            parent, _, attribute = path.rpartition(".")
            own = mx.Linear(layer.in_features, layer.out_features, layer.bias is not None, specs, path)
            own.weight, own.bias = layer.weight, layer.bias
            setattr(model.get_submodule(parent), attribute, own)
    return model


PEERS: Mapping[str, Convert] = {
    "torchao float8 tensorwise": _torchao("tensorwise"),
    "torchao float8 rowwise": _torchao("rowwise"),
    "microxcaling mxfp8": _microxcaling,
}
"""Name → what converts a model in place; ValueError where the package is not installed or does not load."""
