"""`ActivationPolicy`: how what a model saves for backward is kept, as data.

A saved tensor's scheme goes by the operation that reads it: matrix products (`linear`), attention (`attention`:
queries, keys, values, output), everything else (`nonlinear`). None keeps such tensors as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches

from torch import Tensor

from narrowgauge.formats import Scheme
from narrowgauge.nn.activations.parts import check_scheme

Filter = Callable[[Tensor, str], bool]
CONSUMERS = ("linear", "attention", "nonlinear")
EXACT = ("Softmax", "LogSoftmax", "Logsumexp", "Relu", "Threshold")
"""Operations whose saved output counts by its logarithm, or by which of its elements are zero."""


@dataclass(frozen=True, kw_only=True)
class ActivationPolicy:
    """linear, attention, nonlinear: scheme texts or Schemes, or None. In `nonlinear` every row has its own scales.

    recompute: outputs of norms and activation functions are computed again from the compressed inputs of those, instead
    of being saved for the layers that read them. min_elements: smaller tensors stay as they are. exact: beginnings of
    the names of operations (of their graph nodes, such as "Softmax") whose outputs stay as they are. filter_fn(tensor,
    consumer) -> bool: False leaves a tensor as it is. source: where it was published and what was chosen here.

    Raises ValueError for schemes with +sr, of more than 8 bits, or (nonlinear) with scales that rows share.
    """

    name: str
    linear: str | Scheme | None = None
    attention: str | Scheme | None = None
    nonlinear: str | Scheme | None = None
    recompute: bool = True
    min_elements: int = 1024
    exact: tuple[str, ...] = EXACT
    filter_fn: Filter | None = None
    source: str = ""

    def __post_init__(self) -> None:
        for slot in CONSUMERS:
            scheme = getattr(self, slot)
            if scheme is not None:
                object.__setattr__(self, slot, check_scheme(scheme, slot, own_rows=slot == "nonlinear"))
        if self.min_elements < 0:
            raise ValueError(f"min_elements: expected 0 or more, got {self.min_elements}")
        if isinstance(self.exact, str):
            raise ValueError(f"exact: expected a collection of names, got the string {self.exact!r}")

    def scheme(self, consumer: str) -> str | None:
        """The scheme text for tensors that `consumer` (one of `CONSUMERS`) reads."""
        text: str | None = getattr(self, consumer)
        return text


def _every(name: str, scheme: str, source: str) -> ActivationPolicy:
    return ActivationPolicy(name=name, linear=scheme, attention=scheme, nonlinear=scheme, source=source)


POLICIES: dict[str, ActivationPolicy] = {
    policy.name: policy
    for policy in (
        _every("int8", "int8/1x128", "8-bit integers in groups of 128 along each row; elementwise results again"),
        _every("fp8", "e4m3fn/1x128", "E4M3 in groups of 128 along each row; elementwise results again"),
        _every("mxint8", "mxint8", "OCP MX v1.0 INT8: groups of 32, one byte of scale each"),
        replace(
            _every("int8_exact_attention", "int8/1x128", "as int8; queries, keys, values and output stay as they are"),
            attention=None,
        ),
        ActivationPolicy(
            name="coat",
            linear="e4m3fn",
            nonlinear="e4m3fn/1x16",
            recompute=False,
            source="arXiv 2410.19313, section 4: inputs of linear layers per tensor, of other operations 1x16, "
            "attention as it is, nothing computed again; scales here are float32, not bfloat16",
        ),
    )
}


def get_policy(policy: str | ActivationPolicy) -> ActivationPolicy:
    """The policy of a name, or of a scheme text that then holds for everything ("e4m3fn/1x32"). ValueError says what
    is accepted."""
    if isinstance(policy, ActivationPolicy):
        return policy
    if not isinstance(policy, str):
        raise TypeError(f"policy: expected a name, a scheme text or an ActivationPolicy, got {type(policy).__name__}")
    if policy in POLICIES:
        return POLICIES[policy]
    try:
        return _every(policy, policy, "one scheme for everything")
    except ValueError as error:
        near = get_close_matches(policy, POLICIES, n=2, cutoff=0.3)
        hint = f"nearest: {', '.join(near)}; " if near else ""
        raise ValueError(
            f"policy: got {policy!r}; {hint}accepted: {', '.join(POLICIES)}, or a scheme text with scales of each "
            f"row's own, such as 'int8/1x128' ({error})"
        ) from None
