"""How products are launched: the model's choices for a target."""

from __future__ import annotations

import pytest
import torch

from narrowgauge.bench.model_shapes import Problem, model_problems
from narrowgauge.bench.tune import chosen_by_model, measured, pair_of
from narrowgauge.formats import parse
from narrowgauge.kernels import _gemm_model, tuning
from narrowgauge.kernels._gemm_config import Config, candidates, product_of
from narrowgauge.kernels._gpu_facts import GPUS

SMALL = Problem("small", 16, 256, 4096)
LARGE = Problem("large", 8192, 8192, 8192)


def test_a_pair_is_one_scheme_for_both_or_two() -> None:
    assert pair_of("e4m3fn/row") == (parse("e4m3fn/row"), parse("e4m3fn/row"))
    assert pair_of("e4m3fn/1x128,e4m3fn/128x128") == (parse("e4m3fn/1x128"), parse("e4m3fn/128x128"))


@pytest.mark.parametrize("target", GPUS)
def test_the_choice_is_the_best_candidate_that_fits(target: str) -> None:
    launches = chosen_by_model([SMALL, LARGE], ["e4m3fn/row", "int8/row"], target)
    assert [(launch.problem, launch.schemes) for launch in launches] == [
        ("small", "e4m3fn/row"), ("small", "int8/row"), ("large", "e4m3fn/row"), ("large", "int8/row"),
    ]  # fmt: skip
    for launch, problem in zip(launches[::2], (SMALL, LARGE), strict=True):
        product = product_of(problem.m, problem.n, problem.k, parse("e4m3fn/row"), parse("e4m3fn/row"))
        times = [_gemm_model.seconds(config, product, target) for config in candidates(product, target)]
        assert launch.seconds == min(times)
        assert _gemm_model.seconds(Config(**launch.config), product, target) == launch.seconds
        assert launch.considered == sum(time < float("inf") for time in times)
    assert launches[0].config["split_k"] > 1
    assert launches[2].config["split_k"] == 1


def test_every_layer_of_a_model_has_a_launch() -> None:
    problems = model_problems(["deepseek-v3"], [1, 4096], ["fprop", "dgrad", "wgrad"])
    launches = chosen_by_model(problems, ["e4m3fn/1x128,e4m3fn/128x128"], "sm_90")
    assert len(launches) == len(problems)
    assert {launch.how for launch in launches} == {"model"}


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="target: got 'sm_91', accepted: sm_80"):
        chosen_by_model([SMALL], ["e4m3fn"], "sm_91")
    with pytest.raises(ValueError, match="device: got cpu, accepted: cuda devices"):
        measured([SMALL], ["e4m3fn"], "cpu")


@pytest.mark.gpu
def test_measured_choices_are_kept(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    told: list[tuple[int, int, str]] = []
    choices = measured([SMALL], ["e4m3fn/row"], "cuda", lambda *numbers: told.append(numbers))
    assert told == [(0, 1, "small e4m3fn/row")]
    assert choices[-1].how == "measured"
    assert tuning.table_path(tuning.device_name(torch.device("cuda"))).exists()


def test_schemes_that_have_no_product_are_refused() -> None:
    with pytest.raises(ValueError, match="b_scheme: e4m3fn/row does not go with int8/row"):
        chosen_by_model([SMALL], ["int8/row,e4m3fn/row"], "sm_90")
