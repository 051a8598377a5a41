import math

import pytest
import torch
from torch import Tensor

from narrowgauge.train import Llama, LlamaConfig
from narrowgauge.train.merge import average, interpolate, slerp

TINY = LlamaConfig(dim=16, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=32, max_seq_len=16)


def state(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"w": torch.randn(3, 4, generator=generator).to(dtype), "step": torch.tensor(3)}


def test_the_average_is_the_weighted_mean() -> None:
    states = [state(seed) for seed in range(3)]
    stacked = torch.stack([s["w"].double() for s in states])
    torch.testing.assert_close(average(states)["w"], stacked.mean(0).float(), rtol=0, atol=0)
    weights = torch.tensor([1.0, 0.0, 3.0], dtype=torch.float64)
    expected = (stacked * weights[:, None, None]).sum(0) / 4
    torch.testing.assert_close(average(states, weights.tolist())["w"], expected.float(), rtol=0, atol=0)
    assert average(states)["step"].item() == 3


def test_one_state_is_its_own_average_and_order_does_not_matter() -> None:
    states = [state(seed) for seed in range(3)]
    torch.testing.assert_close(average(states[:1]), states[0], rtol=0, atol=0)
    torch.testing.assert_close(average(states), average(states[::-1]), rtol=1e-7, atol=0)
    average(states[:1])["w"].zero_()
    assert states[0]["w"].abs().max() > 0  # nothing is shared


@pytest.mark.parametrize("between", [interpolate, slerp])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_ends_are_the_states_themselves(between, dtype: torch.dtype) -> None:
    start, end = state(0, dtype), state(1, dtype)
    torch.testing.assert_close(between(start, end, 0.0), start, rtol=0, atol=0)
    torch.testing.assert_close(between(start, end, 1.0), end, rtol=0, atol=0)
    torch.testing.assert_close(between(start, start, 0.3), start, rtol=0, atol=0)


def test_repeated_interpolation_is_a_moving_average() -> None:
    running = state(0)
    expected = running["w"].double()
    for seed in range(1, 5):
        running = interpolate(running, state(seed), 0.1)
        expected = 0.9 * expected + 0.1 * state(seed)["w"].double()
    torch.testing.assert_close(running["w"], expected.float(), rtol=1e-6, atol=1e-7)


def test_the_arc_of_unit_vectors_has_an_even_rate_and_keeps_the_norm() -> None:
    start, end = {"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([0.0, 1.0])}
    for t in (0.25, 0.5, 0.9):
        angle = t * math.pi / 2
        expected = torch.tensor([math.cos(angle), math.sin(angle)])
        torch.testing.assert_close(slerp(start, end, t)["w"], expected)


@pytest.mark.parametrize("end", [[2.0, 0.0], [-1.0, 0.0], [0.0, 0.0], [1.0, 1e-3]])
def test_where_there_is_no_arc_the_line_is_taken(end: list[float]) -> None:
    a, b = {"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor(end)}
    torch.testing.assert_close(slerp(a, b, 0.25), interpolate(a, b, 0.25), rtol=0, atol=0)


def test_a_merged_model_loads() -> None:
    first, second = Llama(TINY, seed=0), Llama(TINY, seed=1)
    merged = Llama(TINY, seed=2)
    merged.load_state_dict(average([first.state_dict(), second.state_dict()]))
    expected = (first.lm_head.weight + second.lm_head.weight) / 2
    torch.testing.assert_close(merged.lm_head.weight, expected, rtol=1e-6, atol=1e-8)


def test_states_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="states: 'w' is not in both"):
        average([state(0), {"step": torch.tensor(3)}])
    with pytest.raises(ValueError, match=r"states: 'w' is torch\.float32 \[3, 4\] in the first, torch\.bfloat16"):
        interpolate(state(0), state(1, torch.bfloat16), 0.5)
    with pytest.raises(ValueError, match=r"states: 'step' is torch\.int64, which cannot be averaged"):
        slerp(state(0), state(1) | {"step": torch.tensor(4)}, 0.5)
    with pytest.raises(ValueError, match="states, weights: expected"):
        average([])
    with pytest.raises(ValueError, match="states, weights: expected"):
        average([state(0)], [0.5, 0.5])
    with pytest.raises(ValueError, match="weights: expected numbers of at least 0"):
        average([state(0), state(1)], [1.0, -1.0])
