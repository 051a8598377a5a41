"""What the hook decides for every tensor that autograd saves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narrowgauge.kernels import quantize
from narrowgauge.nn import ActivationPolicy, RMSNorm, get_policy
from narrowgauge.nn.activations.hooks import SavedTensors, consumer_of
from narrowgauge.nn.activations.report import SavedReport

R, K = 32, 64
CODES = R * K + 4 * (R * K // 128) + 4
"""Bytes of [R, K] under int8/1x128 where rows are joined to groups of 128: codes, scales, the outer scale."""


def hidden(*shape: int) -> Tensor:
    """A tensor of the graph."""
    return torch.randn(shape or (R, K), generator=torch.Generator().manual_seed(0)).requires_grad_() * 1


def saved_by(
    function: Callable[..., Tensor],
    *inputs: Tensor,
    policy: str | ActivationPolicy = "int8",
    owned: tuple[Tensor, ...] = (),
) -> tuple[Tensor, SavedReport]:
    with SavedTensors(get_policy(policy), owned) as saved:
        out = function(*inputs)
    return out, saved.report()


def kept(report: SavedReport, read_by: str) -> set[str]:
    return {row.kept for row in report.rows if row.read_by == read_by}


@pytest.mark.parametrize(
    ("function", "consumer"),
    [
        (F.linear, "linear"),
        (torch.matmul, "linear"),
        (Tensor.__matmul__, "linear"),
        (torch.einsum, "linear"),
        (F.conv2d, "linear"),
        (F.scaled_dot_product_attention, "attention"),
        (torch.mul, "nonlinear"),
        (F.gelu, "nonlinear"),
        (F.multi_head_attention_forward, "attention"),
    ],
)
def test_readers_are_told_apart(function: Callable[..., Tensor], consumer: str) -> None:
    assert consumer_of(function) == consumer


def test_scheme_goes_by_the_reader() -> None:
    policy = ActivationPolicy(
        name="mine", linear="e4m3fn", attention="int8/1x64", nonlinear="e5m2/1x16", min_elements=0
    )
    weight = torch.randn(K, K, requires_grad=True)
    heads = hidden(1, 2, 8, 16)

    def run(x: Tensor) -> Tensor:
        return F.linear(x, weight).exp().sum() + F.scaled_dot_product_attention(heads, heads * 2, heads * 3).sum()

    _, report = saved_by(run, hidden(), policy=policy, owned=(weight,))
    assert "e4m3fn" in kept(report, "linear")
    assert "int8/1x64" in kept(report, "attention")
    assert "e5m2/1x16" in kept(report, "nonlinear")


def test_gradients_are_those_at_the_restored_tensor() -> None:
    x = hidden()
    y, _ = saved_by(torch.square, x)
    (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert torch.equal(dx, 2 * quantize(x, "int8/1x128").dequantize())


def test_what_stays_as_it_is() -> None:
    frozen, mask = torch.randn(R, K), torch.rand(R, K) > 0.5
    weight = torch.randn(K, K, requires_grad=True)
    cases: dict[str, Callable[[Tensor], Tensor]] = {
        "as it is: outside the graph": lambda x: x * frozen,
        "as it is: codes, indices or masks": lambda x: x.masked_fill(mask, 0.0),
        "as it is: exact": lambda x: torch.softmax(x, -1),
        "as it is: small": lambda x: x[:1].exp(),
        "as it is: cast or view of a parameter": lambda x: x @ weight.t(),
        "as it is: filter_fn said no": lambda x: x.square(),
    }
    for reason, function in cases.items():
        keep = None if "filter" not in reason else (lambda tensor, consumer: consumer != "nonlinear")
        policy = ActivationPolicy(name="mine", linear="int8/1x128", nonlinear="int8/1x128", filter_fn=keep)
        x = hidden()
        y, report = saved_by(function, x, policy=policy)
        assert reason in kept(report, "nonlinear") | kept(report, "linear"), reason
        (dx,) = torch.autograd.grad(y, x, torch.ones_like(y), retain_graph=True)
        (expected,) = torch.autograd.grad(function(x), x, torch.ones_like(y))
        assert torch.equal(dx, expected), reason


def test_owned_memory_is_neither_compressed_nor_counted() -> None:
    weight, table = torch.randn(K, K, requires_grad=True), torch.randn(R, K)
    y, report = saved_by(lambda x: F.linear(x * table, weight), hidden(), owned=(weight, table))
    assert "as it is: parameter or buffer" in kept(report, "linear") & kept(report, "nonlinear")
    assert report.bytes_kept == CODES
    y.sum().backward()


def test_tensor_of_several_readers_is_kept_once() -> None:
    weights = [torch.randn(K, K, requires_grad=True) for _ in range(3)]
    x = hidden()
    y, report = saved_by(lambda x: sum(F.linear(x, w) for w in weights), x, owned=tuple(weights))
    assert report.bytes_kept == CODES
    y.sum().backward()
    restored = quantize(x.view(-1, 128), "int8/1x128").dequantize().view(R, K)
    for weight in weights:
        torch.testing.assert_close(weight.grad, torch.ones(R, K).t() @ restored)


def test_changed_tensor_is_another_one() -> None:
    x = hidden()

    def run(x: Tensor) -> Tensor:
        first = x.detach().clone().requires_grad_() * 1
        total = (first * 1).square().sum()
        with torch.no_grad():
            first.mul_(2)
        return total + first.square().sum()

    with SavedTensors(get_policy("int8"), ()) as saved:
        run(x).backward()
    assert saved.report().bytes_kept == 2 * (R * K + 4 * R + 4)


def test_output_of_a_compressed_module_is_computed_again_through_views_and_casts() -> None:
    norm = RMSNorm(K)
    weight = torch.randn(K, K, requires_grad=True)
    x = hidden(4, 8, K)

    def run(x: Tensor) -> Tensor:
        y = norm(x)
        return F.linear(y.view(-1, K), weight) + F.linear(y.flatten(0, 1).to(torch.bfloat16), weight.to(torch.bfloat16))

    y, report = saved_by(run, x, owned=(weight, *norm.parameters()))
    assert report.bytes_kept == R * K + 4 * R + 4 + 2 * K * K  # the input's codes, and the cast of the weight
    y.sum().backward()
    again = norm(quantize(x.detach(), "int8/1x128").dequantize()).detach().view(-1, K)
    ones = torch.ones(R, K)
    expected = ones.t() @ again + (ones.to(torch.bfloat16).t() @ again.to(torch.bfloat16)).float()
    torch.testing.assert_close(weight.grad, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("what", ["compressed", "computed again", "whole", "weight"])
def test_change_in_place_before_backward_is_refused(what: str) -> None:
    norm, weight = RMSNorm(K), torch.randn(K, K, requires_grad=True)
    kept_by: list[Tensor] = []

    def run(x: Tensor) -> Tensor:
        y = {"compressed": lambda: x * 1, "computed again": lambda: norm(x), "whole": lambda: torch.softmax(x, -1)}.get(
            what, lambda: x * 1
        )()
        kept_by.append(weight if what == "weight" else y)
        return F.linear(y, weight)

    out, _ = saved_by(run, hidden())
    with torch.no_grad():
        kept_by[0].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_attention_as_it_is_is_shared_with_the_projection_that_follows() -> None:
    policy = get_policy("int8_exact_attention")
    weight = torch.randn(K, K, requires_grad=True)

    def run(x: Tensor) -> Tensor:
        heads = x.view(2, 16, 4, 16).transpose(1, 2)
        out = F.scaled_dot_product_attention(heads, heads * 1, heads * 1)
        return F.linear(out.transpose(1, 2).flatten(-2), weight)

    y, report = saved_by(run, hidden(2, 16, K), policy=policy, owned=(weight,))
    assert kept(report, "linear") == {"as it is: kept for another reader", "as it is: parameter or buffer"}
    y.sum().backward()


def test_hook_and_mode_end_with_the_context_whatever_happens() -> None:
    with pytest.raises(KeyboardInterrupt), SavedTensors(get_policy("int8"), ()):
        raise KeyboardInterrupt
    x = hidden()
    x.square().sum().backward()
    y = x.square()
    assert y.grad_fn._saved_self.data_ptr() == x.data_ptr()


def test_subclasses_and_sparse_tensors_are_left_alone() -> None:
    class Mine(Tensor):
        pass

    x = hidden().as_subclass(Mine)
    y, report = saved_by(torch.square, x)
    assert report.rows == ()
    y.sum().backward()


def test_reused_module_with_a_relu_keeps_its_zeros() -> None:
    net = nn.Sequential(nn.Linear(K, K), nn.ReLU(), nn.Linear(K, 1))
    x = hidden()
    out, report = saved_by(net, x, owned=tuple(net.parameters()))
    assert "as it is: exact" in kept(report, "nonlinear")
    (dx,) = torch.autograd.grad(out.sum(), x)
    (expected,) = torch.autograd.grad(net(x).sum(), x)
    assert torch.equal(dx, expected)  # of x, this needs the weights and the zeros alone
