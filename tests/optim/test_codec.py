"""The `state` option and the tensors it stands for."""

from __future__ import annotations

import pytest
import torch

from narrowgauge.formats import CodebookFormat, Scheme
from narrowgauge.kernels.moments import first_moment, second_moment
from narrowgauge.optim.codec import codec_names, decoded_moments, loaded_state, new_state, plain_option

NO_ZERO = Scheme(CodebookFormat.from_values([-1.0, 1.0], "no_zero_state"), (1, 32))


def test_one_name_stands_for_both_moments() -> None:
    assert codec_names("coat") == ("coat", "coat")
    assert codec_names(("dynamic8", "coat")) == ("dynamic8", "coat")
    assert codec_names(["fp8", "bf16"]) == ("fp8", "bf16")


@pytest.mark.parametrize(("state", "error", "text"), [
    ("coaat", ValueError, "nearest: coat"), (("coat", "int9"), ValueError, "int9 has no groups"),
    (8, TypeError, "expected the name of a codec, a scheme, or a pair"), (("coat",), TypeError, "a pair of them"),
    (("coat", 8), TypeError, "expected the name of a codec"),
    ("nf4", ValueError, "nf4 has no groups of a flattened tensor; accepted: 1xG"),
    ("nf4/row", ValueError, "has no groups"), ("nf4/1x48", ValueError, "a power of two, 2 to 1024"),
    ("nf4/1x64:pow2", ValueError, "accepted: the rule amax"), ("nf4/1x64+sr", ValueError, "accepted: the rule amax"),
    ("mxfp4", ValueError, "mxfp4 is a block format"),
    ("uint8/1x64", ValueError, "is unsigned, and first moments are not"),
    ("bf16/1x64", ValueError, "at most 8 bits"), (("coat", NO_ZERO), ValueError, "no_zero_state/1x32 has no zero"),
    ("nf5/1x64", ValueError, "unknown codec 'nf5/1x64'.*schemes such as nf4/1x128.*unknown name 'nf5'"),
])  # fmt: skip
def test_what_is_no_state_is_refused(state: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        codec_names(state)


def test_schemes_stand_for_moments_by_text_or_object() -> None:
    mine = Scheme(CodebookFormat.from_values([-1.0, 0.0, 0.5, 1.0], "state_codebook"), (1, 32))
    assert codec_names((mine, "udynamic8/1x256")) == ("state_codebook/1x32", "udynamic8/1x256")
    assert plain_option(mine) == "state_codebook/1x32"
    assert plain_option("coat") == "coat"
    first, second = first_moment("state_codebook/1x32"), second_moment("udynamic8/1x256")
    assert (first.format, first.group, first.smallest) == ("state_codebook", 32, 0.5)
    assert second == second_moment("dynamic8")


def test_state_is_plain_tensors_of_the_parameters_shape() -> None:
    state = new_state(torch.empty(3, 100, dtype=torch.bfloat16), ("coat", "fp8"))
    described = {key: (value.dtype, tuple(value.shape)) for key, value in state.items()}
    assert described == {
        "step": (torch.float32, ()),
        "exp_avg": (torch.uint8, (3, 100)),
        "exp_avg_scale": (torch.float32, (3, 2)),
        "exp_avg_sq": (torch.uint8, (3, 100)),
        "exp_avg_sq_scale": (torch.float32, (2, 1)),
    }
    assert all(type(value) is torch.Tensor for value in state.values())


@pytest.mark.parametrize("name", ["coat", "coat_paper", "fp8", "int8", "dynamic8", "bf16", "fp32", "nf4/1x32"])
def test_new_state_reads_back_as_zero(name: str) -> None:
    p = torch.empty(5, 77)
    for moment in decoded_moments(new_state(p, (name, name)), (name, name)):
        assert torch.equal(moment, torch.zeros(5, 77))


def test_loaded_state_is_a_copy() -> None:
    p = torch.empty(10)
    saved = new_state(p, ("coat", "coat"))
    loaded = loaded_state(saved, p, ("coat", "coat"))
    loaded["exp_avg"].fill_(7)
    loaded["step"] += 1
    assert not saved["exp_avg"].any()
    assert saved["step"] == 0


def test_state_of_another_codec_or_shape_is_refused_by_name() -> None:
    p = torch.empty(300)
    saved = new_state(p, ("coat", "coat"))
    with pytest.raises(ValueError, match=r"state fp32/fp32 has the entries exp_avg, exp_avg_sq, step, got"):
        loaded_state(saved, p, ("fp32", "fp32"))
    with pytest.raises(ValueError, match=r"state_dict: exp_avg_scale: expected contiguous torch.float32 \(2, 1\)"):
        loaded_state(saved, p, ("fp8", "fp8"))
    with pytest.raises(ValueError, match=r"state_dict: exp_avg: expected 200"):
        loaded_state(saved, p[:200], ("coat", "coat"))
