import pytest
import torch

from narrowgauge.train import LlamaConfig
from narrowgauge.train.blocks import Block, rope_tables
from narrowgauge.train.kv_cache import KVCache
from narrowgauge.train.stack import Stack

CONFIG = LlamaConfig(dim=32, num_layers=3, num_heads=4, num_kv_heads=2, ffn_dim=48, max_seq_len=24)


def stack() -> Stack:
    return Stack(CONFIG, lambda: Block(CONFIG))


def test_a_stack_has_the_blocks_that_it_was_told_to_make() -> None:
    class Own(Block):
        """Another kind of block."""

    built = Stack(CONFIG, lambda: Own(CONFIG))
    assert [type(layer) for layer in built.layers] == [Own] * 3
    assert built.num_parameters() == 3 * sum(p.numel() for p in Block(CONFIG).parameters()) + 256 * 32 + 32


def test_tables_are_no_part_of_the_saved_weights() -> None:
    assert not [name for name in stack().state_dict() if name.endswith("_TD")]


def test_positions_without_a_cache_are_the_first_rows_of_the_tables() -> None:
    cos, sin = rope_tables(24, 8, CONFIG.rope_theta)
    got_cos, got_sin, mask = stack().positions(5)
    assert torch.equal(got_cos, cos[:5])
    assert torch.equal(got_sin, sin[:5])
    assert mask is None


def test_positions_with_a_cache_are_those_of_each_row() -> None:
    cos, _ = rope_tables(24, 8, CONFIG.rope_theta)
    cache = KVCache(8, torch.tensor([0, 2]))
    cache.advance(4)
    got, _, mask = stack().positions(2, cache)
    assert torch.equal(got, torch.stack((cos[4:6], cos[2:4]))[:, None])
    assert mask is not None
    assert mask.shape == (2, 1, 2, 6)


def test_ids_that_do_not_fit_are_refused() -> None:
    stack().check_ids(torch.zeros(2, 24), 0)
    stack().check_ids(torch.zeros(2, 4), 20)
    with pytest.raises(ValueError, match=r"max_seq_len=24\], got \(2, 25\)$"):
        stack().check_ids(torch.zeros(2, 25))
    with pytest.raises(ValueError, match=r"max_seq_len=24\], got \(2, 5\) after 20 in the cache$"):
        stack().check_ids(torch.zeros(2, 5), 20)
