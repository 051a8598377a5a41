"""Several methods acting as one."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from narrowgauge.train.data import Batch, BatchSource
from narrowgauge.train.loss import cross_entropy
from narrowgauge.train.method import Method, Metrics, ParameterGroup
from narrowgauge.train.rng import derive_seed

_REPLACED_HOOKS = ("loss", "source")


class MethodStack:
    """Calls each hook on every method in order.

    Raises ``TypeError`` for what is not a method, and ``ValueError``, with both names, for two methods of one
    name, for a method whose ``needs`` is absent or whose ``conflicts`` is present, and for two that replace
    the same thing.
    """

    def __init__(self, methods: Sequence[Method]) -> None:
        self.methods = tuple(methods)
        for method in self.methods:
            if not isinstance(method, Method):
                raise TypeError(f"methods: expected instances of Method, got {method!r}")
        self.names = tuple(method.name or type(method).__name__ for method in self.methods)
        self._check_names()
        for hook in _REPLACED_HOOKS:
            owners = self.overriding(hook)
            if len(owners) > 1:
                raise ValueError(f"methods: {' and '.join(owners)} both replace the {hook}; use one of them")
        self._loss = next((method for method in self.methods if method.overrides("loss")), None)

    def _check_names(self) -> None:
        for index, (name, method) in enumerate(zip(self.names, self.methods, strict=True)):
            if name in self.names[:index]:
                raise ValueError(f"methods: {name!r} is given twice")
            for needed in method.needs:
                if needed not in self.names:
                    raise ValueError(f"methods: {name!r} needs {needed!r}, which is not among {list(self.names)}")
            for excluded in method.conflicts:
                if excluded in self.names:
                    raise ValueError(f"methods: {name!r} and {excluded!r} cannot be combined; use one of them")

    def overriding(self, hook: str) -> list[str]:
        """Names of the methods that have their own ``hook``."""
        return [name for name, method in zip(self.names, self.methods, strict=True) if method.overrides(hook)]

    def old_values(self, model: nn.Module) -> dict[str, Tensor] | None:
        """Copies of the trainable parameters, where a method wants those from before the optimizer's step."""
        if not any(method.needs_old_params for method in self.methods):
            return None
        return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    def surgery(self, model: nn.Module) -> tuple[nn.Module, dict[str, str]]:
        """The changed model, and old → new names of the parameters that have another name now."""
        renamed: dict[str, str] = {}
        for name, method in zip(self.names, self.methods, strict=True):
            model, name_map = method.surgery(model)
            if not name_map:
                continue
            unknown = sorted(set(name_map.values()) - set(model.state_dict()))
            if unknown:
                raise ValueError(f"methods: {name!r} maps to {unknown[0]!r}, which its model does not have")
            renamed = {old: name_map.get(new, new) for old, new in renamed.items()} | {
                old: new for old, new in name_map.items() if old not in renamed.values()
            }
        return model, renamed

    def parameter_groups(self, model: nn.Module, groups: list[ParameterGroup]) -> list[ParameterGroup]:
        """The groups after every method's change."""
        for method in self.methods:
            groups = method.parameter_groups(model, groups)
        return groups

    def source(self, data: BatchSource) -> BatchSource:
        """The source after the one method that may replace it."""
        for method in self.methods:
            data = method.source(data)
        return data

    def attach(self, model: nn.Module) -> None:
        """Tell every method that model and optimizer are ready."""
        for method in self.methods:
            method.attach(model)

    def lr_factor(self, step: int) -> float:
        """Product of the methods' factors."""
        factor = 1.0
        for method in self.methods:
            factor *= method.lr_factor(step)
        return factor

    def lr_scales(self, step: int) -> dict[str, float]:
        """Product of the methods' factors for each parameter that one of them names."""
        scales: dict[str, float] = {}
        for method in self.methods:
            for name, scale in (method.lr_scales(step) or {}).items():
                scales[name] = scales.get(name, 1.0) * scale
        return scales

    def begin_step(self, model: nn.Module, step: int) -> None:
        """Announce a step."""
        for method in self.methods:
            method.begin_step(model, step)

    def transform(self, batch: Batch, step: int, seed: int, micro_batch: int) -> Batch:
        """Every method's change of a micro-batch, each with a generator of its own."""
        for name, method in zip(self.names, self.methods, strict=True):
            rng = torch.Generator().manual_seed(derive_seed(seed, step, micro_batch, name))
            batch = method.transform(batch, step, rng)
        return batch

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """The replacing method's loss, or cross-entropy."""
        result = self._loss.loss(model, batch) if self._loss is not None else None
        return result if result is not None else (cross_entropy(model, batch), {})

    def gradient(self, model: nn.Module, step: int) -> None:
        """Let every method change the gradients."""
        for method in self.methods:
            method.gradient(model, step)

    def post_step(self, model: nn.Module, step: int, old: Mapping[str, Tensor] | None) -> None:
        """Tell every method that the optimizer has stepped."""
        for method in self.methods:
            method.post_step(model, step, old if method.needs_old_params else None)

    def evaluate(self, model: nn.Module, evaluate: Callable[[nn.Module], Metrics]) -> Metrics:
        """All methods' metrics."""
        metrics: Metrics = {}
        for method in self.methods:
            metrics |= method.evaluate(model, evaluate)
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Each method's state under its name."""
        return {name: method.state_dict() for name, method in zip(self.names, self.methods, strict=True)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Give each method its state; ``ValueError`` when the saved run had other methods."""
        if list(state) != list(self.names):
            raise ValueError(f"methods: the saved run had {list(state)}, this one has {list(self.names)}")
        for name, method in zip(self.names, self.methods, strict=True):
            method.load_state_dict(state[name])
