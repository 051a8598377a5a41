"""The inference paths of `nn.TransformerEncoder`, which read weights past the layers that own them.

In eval mode without gradients `nn.TransformerEncoderLayer` hands the weights of linear1 and linear2 to one fused
function, and never calls the layers: a quantised layer would be left out, and eval would not be what was trained. Where
one of them is quantised, the layer's own switches turn the path off: `activation_relu_or_gelu = 0`, and for the encoder
around it `use_nested_tensor = False`, because only the fused path takes nested tensors.
"""

from __future__ import annotations

from torch import nn

_BEFORE = "_fast_path_before"


def match_fast_paths(model: nn.Module) -> None:
    """Turns the paths off where they would pass by a quantised layer, and on again where they no longer do."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            _switch(module, "activation_relu_or_gelu", 0, _bypassed(module))
        elif isinstance(module, nn.TransformerEncoder):
            layers = (layer for layer in module.layers if isinstance(layer, nn.TransformerEncoderLayer))
            _switch(module, "use_nested_tensor", False, any(map(_bypassed, layers)))


def _bypassed(layer: nn.TransformerEncoderLayer) -> bool:
    return any(type(linear) is not nn.Linear for linear in (layer.linear1, layer.linear2))


def _switch(module: nn.Module, attribute: str, off: int, wanted: bool) -> None:
    if wanted and _BEFORE not in module.__dict__:
        module.__dict__[_BEFORE] = getattr(module, attribute)
        setattr(module, attribute, off)
    elif not wanted and _BEFORE in module.__dict__:
        setattr(module, attribute, module.__dict__.pop(_BEFORE))
