import pytest
import torch
from torch import Tensor

from narrowgauge.train.kv_cache import KVCache, LayerCache

CPU = torch.device("cpu")


def columns(start: int, stop: int) -> Tensor:
    """[1, 2, stop - start, 3] whose values are their column."""
    return torch.arange(float(start), stop)[None, None, :, None].expand(1, 2, -1, 3)


def test_a_layer_gives_back_everything_it_was_given_in_order() -> None:
    layer = LayerCache(max_len=5)
    layer.extend(columns(0, 3), -columns(0, 3))
    keys, values = layer.extend(columns(3, 5), -columns(3, 5))
    assert torch.equal(keys, columns(0, 5))
    assert torch.equal(values, -columns(0, 5))


def test_a_layer_keeps_the_dtype_of_each() -> None:
    keys, values = LayerCache(4).extend(columns(0, 2), columns(0, 2).bfloat16())
    assert (keys.dtype, values.dtype) == (torch.float32, torch.bfloat16)


def test_more_columns_than_there_is_room_for_are_refused() -> None:
    layer = LayerCache(max_len=4)
    layer.extend(columns(0, 3), columns(0, 3))
    with pytest.raises(ValueError, match="cache: has room for max_len=4 columns, 5 are needed"):
        layer.extend(columns(3, 5), columns(3, 5))


def test_gradients_are_refused() -> None:
    with pytest.raises(ValueError, match=r"cache: a cache holds no gradients; call the model under torch.no_grad\(\)"):
        LayerCache(4).extend(columns(0, 2).clone().requires_grad_(), columns(0, 2))


def test_layers_do_not_share_their_columns() -> None:
    cache = KVCache(4)
    assert cache.layer(0) is cache.layer(0)
    assert cache.layer(0) is not cache.layer(1)


def test_positions_count_on_from_what_was_seen_and_from_the_padding_of_each_row() -> None:
    plain, padded = KVCache(8), KVCache(8, torch.tensor([0, 2]))
    assert plain.positions(3, CPU).tolist() == [[0, 1, 2]]
    assert padded.positions(4, CPU).tolist() == [[0, 1, 2, 3], [0, 0, 0, 1]]
    for cache in (plain, padded):
        cache.advance(4)
    assert plain.positions(2, CPU).tolist() == [[4, 5]]
    assert padded.positions(2, CPU).tolist() == [[4, 5], [2, 3]]


def test_the_first_call_without_padding_needs_no_mask() -> None:
    assert KVCache(8).mask(4, CPU) is None
    assert KVCache(8, torch.tensor([0, 0])).mask(4, CPU) is None


def test_later_columns_read_all_before_them() -> None:
    cache = KVCache(8)
    cache.advance(2)
    mask = cache.mask(2, CPU)
    assert mask is not None
    assert mask.int().tolist() == [[[[1, 1, 1, 0], [1, 1, 1, 1]]]]


def test_no_token_reads_padding_and_no_row_of_the_mask_is_empty() -> None:
    cache = KVCache(8, torch.tensor([0, 2]))
    mask = cache.mask(3, CPU)
    assert mask is not None
    assert mask[:, 0].int().tolist() == [[[1, 0, 0], [1, 1, 0], [1, 1, 1]], [[1, 0, 0], [0, 1, 0], [0, 0, 1]]]
    cache.advance(3)
    mask = cache.mask(1, CPU)
    assert mask is not None
    assert mask[:, 0].int().tolist() == [[[1, 1, 1, 1]], [[0, 0, 1, 1]]]


@pytest.mark.parametrize("padding", [[-1], [4], [[0]], [0.5]])
def test_padding_that_cannot_be_is_refused(padding: list[float]) -> None:
    with pytest.raises(ValueError, match=r"padding: expected one integer of 0 … 3 \(max_len - 1\) a row, got tensor"):
        KVCache(4, torch.tensor(padding))


def test_a_cache_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="max_len: expected at least 1, got 0"):
        KVCache(0)
