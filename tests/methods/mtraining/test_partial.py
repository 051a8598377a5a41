import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from narrowgauge.methods.mtraining.partial import merge, partial_attention, partial_gradients


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def case() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q of 4 heads, k and v of 2, and a mask in which the last row reads nothing of the last third."""
    q, k, v = gaussian(2, 4, 5, 8), gaussian(2, 2, 9, 8, seed=1), gaussian(2, 2, 9, 8, seed=2)
    mask = gaussian(2, 4, 5, 9, seed=3) > -0.5
    mask[..., 0] = True
    mask[..., -1, 6:] = False
    return q, k, v, mask


def parts() -> list[tuple[Tensor, Tensor]]:
    q, k, v, mask = case()
    slices = [slice(0, 3), slice(3, 6), slice(6, 9)]
    return [partial_attention(q, k[:, :, s], v[:, :, s], mask[..., s]) for s in slices]


def test_all_keys_at_once_are_plain_attention() -> None:
    q, k, v, mask = case()
    out, _ = partial_attention(q, k, v, mask)
    torch.testing.assert_close(out, F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True))


def test_parts_merge_to_the_whole_in_any_order() -> None:
    q, k, v, mask = case()
    out, lse = partial_attention(q, k, v, mask)
    for a, b, c in itertools.permutations(parts()):
        for merged in (merge(*merge(*a, *b), *c), merge(*a, *merge(*b, *c))):
            torch.testing.assert_close(merged[0], out)
            torch.testing.assert_close(merged[1], lse)


def test_a_part_that_is_not_read_has_no_share_and_is_no_nan() -> None:
    q, k, v, mask = case()
    nothing = partial_attention(q, k, v, torch.zeros_like(mask))
    assert torch.equal(nothing[0], torch.zeros_like(q))
    assert (nothing[1] == float("-inf")).all()
    some = partial_attention(q, k, v, mask)
    for merged in (merge(*some, *nothing), merge(*nothing, *some)):
        assert torch.equal(merged[0], some[0])
        assert torch.equal(merged[1], some[1])
    assert all(x.isfinite().all() or (x == float("-inf")).all() for x in merge(*nothing, *nothing))
    grads = partial_gradients(q, k, v, torch.zeros_like(mask), *nothing, gaussian(2, 4, 5, 8))
    assert all(torch.equal(grad, torch.zeros_like(grad)) for grad in grads)


def test_gradients_of_parts_are_those_of_the_whole() -> None:
    q, k, v, mask = case()
    grad = gaussian(2, 4, 5, 8, seed=4)
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    F.scaled_dot_product_attention(*leaves, attn_mask=mask, enable_gqa=True).backward(grad)
    out, lse = partial_attention(q, k, v, mask)
    found = [
        partial_gradients(q, k[:, :, s], v[:, :, s], mask[..., s], out, lse, grad)
        for s in (slice(0, 4), slice(4, 6), slice(6, 9))
    ]
    dq, dk, dv = zip(*found, strict=True)
    torch.testing.assert_close(sum(dq), leaves[0].grad)
    torch.testing.assert_close(torch.cat(dk, dim=2), leaves[1].grad)
    torch.testing.assert_close(torch.cat(dv, dim=2), leaves[2].grad)
