"""`report`: which format for which tensor of a model, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from narrowgauge.formats import Scheme
from narrowgauge.numerics.sweeps.measure import Quantize, quantize_exactly
from narrowgauge.numerics.sweeps.result import SweepResult
from narrowgauge.numerics.sweeps.rows import TARGET_DB
from narrowgauge.numerics.sweeps.run import DEFAULT_SCHEMES, Progress, sweep
from narrowgauge.numerics.tensors.named import SAMPLE, TensorSource
from narrowgauge.numerics.tensors.sources import from_checkpoint, from_model
from narrowgauge.numerics.tensors.tap import ROLES

if TYPE_CHECKING:
    from torch import nn


def report(
    model: str | Path | TensorSource | nn.Module,
    schemes: Iterable[str | Scheme] = DEFAULT_SCHEMES,
    *,
    loss_fn: Callable[[Any], Any] | None = None,
    roles: Sequence[str] = ROLES,
    filter_fn: Callable[..., bool] | None = None,
    sample: int | None = SAMPLE,
    quantize: Quantize = quantize_exactly,
    seed: int = 0,
    metrics: Sequence[str] | None = None,
    target_db: float = TARGET_DB,
    title: str = "",
    progress: Progress | None = None,
) -> SweepResult:
    """A `SweepResult` over the tensors of a model: `worst_first()` are its layers from the hardest on, `cheapest()`
    names the format with the fewest bits that is good enough (`target_db`) for each.

    model: a safetensors file, index or folder (its matrices; see `from_checkpoint`, which takes `filter_fn(info)`
    too), a `TensorSource`, or a torch module. Of a module, the linear layers' weights; with `loss_fn` (see
    `from_model`, which takes `filter_fn(module, name)`) also their inputs and output gradients, as `roles` says.
    sample: at most so many elements of each tensor, in whole rows; None: all. The rest is as in `sweep`.

    Raises what `sweep`, `from_checkpoint` and `from_model` raise, and TypeError for another `model`.
    """
    if isinstance(model, str | Path):
        source = from_checkpoint(model, filter_fn=filter_fn, limit=sample)
        name = Path(model).name
    elif isinstance(model, TensorSource):
        source, name = model, ""
    elif hasattr(model, "named_modules"):
        wanted = ("weight",) if loss_fn is None else tuple(roles)
        source = from_model(model, loss_fn or _no_loss, roles=wanted, filter_fn=filter_fn, limit=sample)
        name = type(model).__name__
    else:
        raise TypeError(
            f"model: got {type(model).__name__}, accepted: a path to safetensors, a TensorSource, a torch.nn.Module"
        )
    return sweep(
        source,
        schemes,
        quantize=quantize,
        seed=seed,
        metrics=metrics,
        sample=sample,
        target_db=target_db,
        title=title or (f"Number formats for {name}" if name else "Number formats by tensor"),
        progress=progress,
    )


def _no_loss(model: object) -> None:
    """Weights are there without a forward pass."""
