"""AdamW's state_dict: exact round trips, through safetensors and torch.distributed.checkpoint, and refusals."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from narrowgauge.formats import CodebookFormat, Scheme
from narrowgauge.kernels.codecs import CODECS
from narrowgauge.optim import AdamW
from optimizer_steps import gaussian
from seeded_training import train

MINE = Scheme(CodebookFormat.from_values([0.0, *(2.0 ** (-i / 8) for i in range(255))], "log_state"), (1, 64))
STATES = (*CODECS, ("dynamic8", "coat"), ("hif8/1x128", MINE))


def parameters(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    return [nn.Parameter(gaussian(*shape, seed=i).to(dtype)) for i, shape in enumerate([(30, 17), (129,), (), (0, 3)])]


def assert_same_states(a: torch.optim.Optimizer, b: torch.optim.Optimizer) -> None:
    states = [list(optimizer.state.values()) for optimizer in (a, b)]
    assert len(states[0]) == len(states[1])
    for one, other in zip(*states, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            assert one[key].dtype is other[key].dtype, key
            assert torch.equal(one[key], other[key]), key


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("state", STATES)
def test_resumed_run_repeats_the_uninterrupted_one_bit_for_bit(state: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    params = parameters(dtype)
    optimizer = AdamW(params, state=state)
    train(optimizer, params, range(1, 4))
    saved = optimizer.state_dict()
    tensors = {f"{i}.{key}": t for i, values in saved["state"].items() for key, t in values.items()}
    save_file(tensors, tmp_path / "state.safetensors")
    resumed_params = [nn.Parameter(p.detach().clone()) for p in params]
    train(optimizer, params, range(4, 8))

    state_by_index: dict[int, dict[str, Tensor]] = {}
    for name, tensor in load_file(tmp_path / "state.safetensors").items():
        index, key = name.split(".")
        state_by_index.setdefault(int(index), {})[key] = tensor
    resumed = AdamW(resumed_params, state=state)
    resumed.load_state_dict({"state": state_by_index, "param_groups": saved["param_groups"]})
    train(resumed, resumed_params, range(4, 8))
    for p, q in zip(params, resumed_params, strict=True):
        assert torch.equal(p, q)
    assert_same_states(optimizer, resumed)


def test_load_state_dict_keeps_codes_and_scales_of_bfloat16_parameters() -> None:
    params = parameters(torch.bfloat16)
    optimizer = AdamW(params)
    train(optimizer, params, range(1, 3))
    loaded = AdamW(parameters(torch.bfloat16))
    loaded.load_state_dict(optimizer.state_dict())
    assert_same_states(optimizer, loaded)
    state = loaded.state[loaded.param_groups[0]["params"][0]]
    assert (state["exp_avg"].dtype, state["exp_avg_scale"].dtype) == (torch.uint8, torch.float32)


def test_loaded_state_is_independent_of_its_source() -> None:
    params, others = parameters(), parameters()
    optimizer, loaded = AdamW(params), AdamW(others)
    train(optimizer, params, range(1, 3))
    loaded.load_state_dict(optimizer.state_dict())
    kept = copy.deepcopy(loaded.state_dict()["state"])
    train(optimizer, params, range(3, 5))
    for index, values in loaded.state_dict()["state"].items():
        assert all(torch.equal(values[key], kept[index][key]) for key in values)


def test_state_dict_survives_torch_save_and_a_copy_of_the_optimizer() -> None:
    params = parameters()
    optimizer = AdamW([{"params": params[:2], "state": ("dynamic8", "coat")}, {"params": params[2:]}])
    train(optimizer, params, range(1, 3))
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    loaded = AdamW([{"params": params[:2], "state": "fp32"}, {"params": params[2:]}])
    loaded.load_state_dict(torch.load(buffer, weights_only=True))
    assert_same_states(optimizer, loaded)
    assert loaded.param_groups[0]["state"] == ("dynamic8", "coat")
    assert_same_states(optimizer, copy.deepcopy(optimizer))


def test_load_state_dict_hooks_see_the_final_state() -> None:
    params = parameters()
    optimizer = AdamW(params)
    train(optimizer, params, range(1, 3))
    loaded = AdamW(params)
    seen = []

    def reset_step(_: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        state = {key: {**value, "step": torch.tensor(0.0)} for key, value in state_dict["state"].items()}
        return {**state_dict, "state": state}

    loaded.register_load_state_dict_pre_hook(reset_step)
    loaded.register_load_state_dict_post_hook(lambda o: seen.append(o.state[params[0]]["exp_avg"].dtype))
    loaded.load_state_dict(optimizer.state_dict())
    assert seen == [torch.uint8]
    assert loaded.state[params[0]]["step"] == 0


def test_state_of_torchs_adamw_loads_into_fp32() -> None:
    params, others = parameters(), parameters()
    reference = torch.optim.AdamW(params, lr=3e-3)
    train(reference, params, range(1, 3))
    optimizer = AdamW(others, state="fp32")
    optimizer.load_state_dict(reference.state_dict())
    assert optimizer.param_groups[0]["lr"] == 3e-3
    assert torch.equal(optimizer.moments(others[0])[0], reference.state[params[0]]["exp_avg"])
    train(optimizer, others, range(3, 4))


def test_state_that_does_not_fit_is_refused_and_nothing_changes() -> None:
    params = parameters()
    reference = AdamW(params, lr=0.5, state="fp32")
    train(reference, params, range(1, 3))
    saved = reference.state_dict()
    saved["param_groups"][0]["state"] = "coat"
    optimizer = AdamW(params, lr=0.1, state="coat")
    train(optimizer, params, range(1, 2))
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match="state_dict: state coat/coat, master none has the entries exp_avg, exp_avg_s"):
        optimizer.load_state_dict(saved)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert torch.equal(after["state"][0]["exp_avg"], before["state"][0]["exp_avg"])


def test_distributed_checkpoint_functions_carry_the_state() -> None:
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    models = [nn.Linear(20, 30).to(torch.bfloat16) for _ in range(2)]
    optimizers = [AdamW(model.parameters()) for model in models]
    train(optimizers[0], list(models[0].parameters()), range(1, 4))
    saved = get_optimizer_state_dict(models[0], optimizers[0])
    assert "exp_avg_scale" in saved["state"]["weight"]
    set_optimizer_state_dict(models[1], optimizers[1], saved)
    assert_same_states(*optimizers)
