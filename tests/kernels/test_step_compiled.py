"""The compiled step against the one that is not: as plain functions, which is quick, and compiled."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from narrowgauge.kernels import _step_compiled, _step_torch
from narrowgauge.kernels.optimizer_step import in_flat
from narrowgauge.kernels.random_words import TABLE_ELEMENTS
from narrowgauge.kernels.step_rules import RULES
from optimizer_steps import FUSED, State, gaussian, run

COMPILED = in_flat(_step_compiled.run)
EAGER = in_flat(_step_torch.run)
COUNTS = (40_000, 300, TABLE_ELEMENTS + 33_000)


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch.compile gives functions back as they are."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    _step_compiled.compiled_step.cache_clear()
    yield
    _step_compiled.compiled_step.cache_clear()


def parameters(dtype: torch.dtype, counts: tuple[int, ...] = COUNTS) -> list[Tensor]:
    return [gaussian(count, seed=count).to(dtype) for count in counts]


def gradients(time: int, dtype: torch.dtype, zeros: bool, counts: tuple[int, ...] = COUNTS) -> list[Tensor]:
    g = [1e-2 * gaussian(count, seed=100 * time + count).to(dtype) for count in counts]
    for tensor in g:
        if zeros:
            tensor[: len(tensor) // 2 : 3] = 0.0
            tensor[-1] = float("nan")
    return g


def unlike(ours: Tensor, theirs: Tensor) -> float:
    """The part of elements that differ by more than rounding errors."""
    if not ours.is_floating_point():
        return float((ours != theirs).double().mean())
    same = torch.isclose(ours.float(), theirs.float(), rtol=2e-5, atol=1e-7, equal_nan=True)
    return float((~same).double().mean())


def assert_alike(p: list[Tensor], q: list[Tensor], ours: State, theirs: State, allowed: float) -> None:
    for a, b in zip(p, q, strict=True):
        assert unlike(a, b) <= allowed
    for kind in ours:
        for a, b in zip(ours[kind], theirs[kind], strict=True):
            # The finest numbers depend on a group's smallest magnitude, which cancellation leaves to rounding errors.
            assert unlike(a, b) <= (10 * allowed if kind.endswith("scale") else allowed), kind


def compare(
    rule: str, name: str, master: str = "none", dtype: torch.dtype = torch.float32, zeros: bool = False,
    steps: int = 2, **options: float,
) -> None:  # fmt: skip
    p, q = parameters(dtype), parameters(dtype)
    all_gradients = [gradients(time, dtype, zeros) for time in range(1, steps + 1)]
    flags = {"rule": rule, "name": name, "master": master, "options": options, "skip": zeros}
    ours = run(p, all_gradients, function=COMPILED, **flags)
    theirs = run(q, all_gradients, function=EAGER, **flags)
    # A code or a draw within rounding errors of its border moves what follows from it, here for one step.
    assert_alike(p, q, ours, theirs, 2e-3)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("zeros", [False, True])
def test_every_codec_is_stepped_as_without_compiling(name: str, zeros: bool) -> None:
    compare("adamw", name, zeros=zeros)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_stepped_as_without_compiling(rule: str) -> None:
    compare(rule, "fp32")
    compare(rule, "log4")


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize(("master", "dtype"), [
    ("sr", torch.bfloat16), ("residual", torch.bfloat16), ("none", torch.bfloat16), ("none", torch.float16),
])  # fmt: skip
def test_every_master_is_stepped_as_without_compiling(master: str, dtype: torch.dtype) -> None:
    compare("adamw", "log8", master, dtype)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("offset", [512, TABLE_ELEMENTS - 256, 6])
def test_shards_draw_as_without_compiling(offset: int) -> None:
    compare("adamw", "log4", offset=float(offset))


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize(
    "names", [("nf4/1x64", "udynamic4/1x32"), ("log8", "int8"), ("flash", "log8"), ("log4", "bf16")]
)
def test_codecs_with_different_groups_are_fused(names: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optimizer_steps.names_of", lambda rule, name: names)
    compare("adamw", "pair")


@pytest.mark.usefixtures("uncompiled")
def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise RuntimeError("none of g++")

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", missing)
    with pytest.raises(ValueError, match=r"compiled: torch\.compile needs a C\+\+ compiler"):
        run(parameters(torch.float32), [gradients(1, torch.float32, False)], name="coat", function=COMPILED)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("rule", "name", "master"), [
    ("adamw", "log8", "none"), ("adamw", "log8", "residual"), ("adamw", "log4", "sr"), ("adamw", "coat", "none"),
    ("adamw", "dynamic8", "none"), ("adamw", "flash", "none"), ("adamw", "int8", "none"), ("adamw", "bf16_sr", "none"),
    ("lion", "fp8", "none"), ("sgd_nesterov", "fp8_e5m2", "none"), ("rmsprop_momentum", "coat_paper", "none"),
])  # fmt: skip
def test_compiled_steps_are_those_that_are_not(rule: str, name: str, master: str) -> None:
    compare(rule, name, master, torch.float32 if master == "none" else torch.bfloat16)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_neither_sizes_nor_numbers_compile_again() -> None:
    _step_compiled.compiled_step.cache_clear()
    counters.clear()
    for step, count in enumerate((40_064, 33_280, 70_000, 300_000), 1):
        for dtype in (torch.float32, torch.bfloat16):
            p, g = parameters(dtype, (count,)), gradients(step, dtype, False, (count,))
            run(p, [g], name="bf16_sr", function=COMPILED, options={"lr": 0.1 / step})
    assert counters["stats"]["unique_graphs"] == 1
