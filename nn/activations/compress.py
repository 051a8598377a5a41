"""`compress_activations`: any model, in place, with what it saves for backward compressed; and back again."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import nn

from narrowgauge.formats import Scheme
from narrowgauge.nn.activations.group_scaling import takes_amax
from narrowgauge.nn.activations.hooks import SavedTensors
from narrowgauge.nn.activations.known import compressed_class
from narrowgauge.nn.activations.modules import KeepsCompressed
from narrowgauge.nn.activations.policy import CONSUMERS, ActivationPolicy, get_policy
from narrowgauge.nn.activations.report import SavedReport

MARK = "_compresses_activations"
"""Attribute of the classes that compressed models have."""


class ActivationCompression:
    """What `compress_activations` did to `model`, and the way back.

    policy: the policy. modules: qualified name → name of the class that keeps its inputs compressed. saved: the table
    of the last forward pass with gradients. As a context manager it undoes itself at the end.
    """

    def __init__(self, model: nn.Module, policy: ActivationPolicy) -> None:
        self.model, self.policy = model, policy
        self.modules: dict[str, str] = {}
        self.saved = SavedReport()
        self._classes: list[tuple[nn.Module, type[nn.Module], type[nn.Module]]] = []
        if policy.nonlinear is not None:
            for name, module in list(model.named_modules()):
                self._swap(name, module, policy.nonlinear)
        self._watch(type(model))

    def _swap(self, name: str, module: nn.Module, scheme: str | Scheme) -> None:
        found = compressed_class(module)
        if found is None:
            return
        self._change_class(module, found)
        self.modules[name] = found.__name__
        if isinstance(module, KeepsCompressed):
            module.keep_under(scheme)
            linear = self.policy.scheme("linear")
            module.measure = not self.policy.recompute and linear is not None and takes_amax(linear)

    def _watch(self, cls: type[nn.Module]) -> None:
        """Gives the model a class of its own, whose call is the plain one inside the hook."""
        compression = self

        def call(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if not torch.is_grad_enabled():
                return cls.__call__(model, *args, **kwargs)
            if torch.compiler.is_compiling():
                raise RuntimeError(
                    "compress_activations: the hook cannot be compiled; accepted: a model that runs eagerly, or one "
                    "built from narrowgauge.nn.RMSNorm, SwiGLU and their kind, which compilers take"
                )
            owned = itertools.chain(model.parameters(), model.buffers())
            with SavedTensors(compression.policy, owned) as saved:
                result = cls.__call__(model, *args, **kwargs)
            compression.saved = saved.report()
            return result

        body = {"__call__": call, "__module__": cls.__module__, MARK: True}
        self._change_class(self.model, type(cls.__name__, (cls,), body))

    def _change_class(self, module: nn.Module, new: type[nn.Module]) -> None:
        self._classes.append((module, type(module), new))
        module.__class__ = new

    def remove(self) -> nn.Module:
        """Gives every module its class back; the model. Graphs that are still alive keep their compressed tensors.

        RuntimeError if something else has changed a module's class since, as `fully_shard` does.
        """
        while self._classes:
            module, cls, ours = self._classes[-1]
            if type(module) is not ours:
                raise RuntimeError(
                    f"model: the class of a {type(module).__name__} has been changed since its activations were "
                    f"compressed; undo that first"
                )
            self._classes.pop()
            module.__class__ = cls
            if not isinstance(module, KeepsCompressed):
                vars(module).pop("scheme", None)
                vars(module).pop("measure", None)
        return self.model

    def __enter__(self) -> ActivationCompression:
        return self

    def __exit__(self, *error: Any) -> None:
        self.remove()

    def __str__(self) -> str:
        schemes = ", ".join(f"{consumer}={self.policy.scheme(consumer)}" for consumer in CONSUMERS)
        modules = [f"{name or 'the model'}: {kept_by}" for name, kept_by in self.modules.items()]
        return "\n".join([f"policy {self.policy.name}: {schemes}", *modules, str(self.saved)])


def compress_activations(model: nn.Module, policy: str | ActivationPolicy = "int8") -> ActivationCompression:
    """From now on `model` keeps what it saves for backward compressed under `policy`: a name of `POLICIES`, a scheme
    text ("e4m3fn/1x128"), or an `ActivationPolicy`. In place; parameters, `state_dict` keys and outputs stay the same.

    RMSNorm, LayerNorm, GELU, SiLU and gated MLPs (gate_proj, up_proj, down_proj) keep their inputs alone, and what they
    put out is computed again; other tensors go through a saved-tensor hook that is active during the model's forward.
    Inside `torch.utils.checkpoint` the checkpoint decides; only the modules' own inputs are compressed there.

    >>> handle = ng.compress_activations(model)  # doctest: +SKIP
    >>> loss = loss_fn(model(x))  # doctest: +SKIP
    >>> print(handle.saved)  # doctest: +SKIP
    >>> handle.remove()  # doctest: +SKIP

    Raises TypeError if `model` is no module, ValueError for unknown policies and a model that is compressed already.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected an nn.Module, got {type(model).__name__}")
    plan = get_policy(policy)
    if any(hasattr(type(module), MARK) for module in model.modules()):
        raise ValueError("model: its activations are compressed already; call .remove() of that handle first")
    return ActivationCompression(model, plan)
