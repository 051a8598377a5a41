"""The `state` option and the tensors it stands for."""

from __future__ import annotations

import pytest
import torch

from narrowgauge.formats import CodebookFormat, Scheme
from narrowgauge.kernels.codecs import CODECS, first_moment, lone_moment, second_moment
from narrowgauge.kernels.stored_moments import read_moments
from narrowgauge.optim.codec import (
    codec_names,
    copied_moments,
    empty_moments,
    moments_of,
    plain_option,
    state_keys,
    stored,
)

NO_ZERO = Scheme(CodebookFormat.from_values([-1.0, 1.0], "no_zero_state"), (1, 32))
ADAM = ("exp_avg", "exp_avg_sq")
CPU = torch.device("cpu")


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
    assert plain_option([mine, "coat"]) == ("state_codebook/1x32", "coat")
    assert plain_option("coat") == "coat"
    first, second = first_moment("state_codebook/1x32"), second_moment("udynamic8/1x256")
    assert (first.format, first.group, first.smallest) == ("state_codebook", 32, 0.5)
    assert second == second_moment("dynamic8")


def test_a_moment_that_an_optimizer_lacks_has_no_codec_and_is_not_checked() -> None:
    only_second = moments_of("uint8/1x64", ("", "square_avg"))  # no codec for a first moment
    assert (only_second.first, only_second.names) == (None, ("", "uint8/1x64"))
    assert [key for key, _ in only_second.present] == ["square_avg"]
    alone = moments_of("log8", ("exp_avg", ""))
    assert alone.first == lone_moment("log8")
    assert moments_of("log8", ADAM).first != alone.first
    assert moments_of(("fp8", "log8"), ("exp_avg", "")).names == ("fp8", "")
    nothing = moments_of("coat", ("", ""))
    assert (nothing.present, nothing.bytes_per_parameter, nothing.unfused) == ((), 0, "")


def test_state_is_plain_tensors() -> None:
    state = empty_moments(moments_of(("coat", "fp8"), ADAM), torch.Size((3, 100)), CPU)
    described = {key: (value.dtype, tuple(value.shape)) for key, value in state.items()}
    assert described == {
        "exp_avg": (torch.uint8, (3, 100)),
        "exp_avg_scale": (torch.float32, (3, 2)),
        "exp_avg_sq": (torch.uint8, (3, 100)),
        "exp_avg_sq_scale": (torch.float32, (2, 1)),
    }
    assert all(type(value) is torch.Tensor and value.is_contiguous() for value in state.values())


@pytest.mark.parametrize("name", [*CODECS, "nf4/1x32"])
def test_new_state_reads_back_as_zero_and_has_the_bytes_it_says(name: str) -> None:
    moments, shape = moments_of(name, ADAM), torch.Size((256, 1024))
    state = empty_moments(moments, shape, CPU)
    assert set(state) == state_keys(moments)
    m, v = read_moments(moments.first, moments.second, stored(state, ADAM[0]), stored(state, ADAM[1]), shape)
    assert m is not None
    assert v is not None
    assert not m.any()
    assert not v.any()
    size = sum(t.nbytes for t in state.values()) / shape.numel()
    assert size == pytest.approx(moments.bytes_per_parameter, rel=0.02 if name == "int4" else 1e-9)


def test_copied_moments_are_copies() -> None:
    moments, shape = moments_of("coat", ADAM), torch.Size((10,))
    saved = empty_moments(moments, shape, CPU)
    copied = copied_moments(saved, moments, shape, CPU)
    copied["exp_avg"].fill_(7)
    assert not saved["exp_avg"].any()


@pytest.mark.parametrize(("state", "shape", "text"), [
    (("fp8", "fp8"), (300,), r"state_dict: exp_avg_scale: expected contiguous torch.float32 \(2, 1\)"),
    (("coat", "coat"), (200,), "state_dict: exp_avg: expected 200"),
    (("log8", "log8"), (300,), "state_dict: exp_avg: expected 300 contiguous torch.int8"),
])  # fmt: skip
def test_state_of_another_codec_or_shape_is_refused_by_name(state: object, shape: tuple[int, ...], text: str) -> None:
    saved = empty_moments(moments_of("coat", ADAM), torch.Size((300,)), CPU)
    with pytest.raises(ValueError, match=text):
        copied_moments(saved, moments_of(state, ADAM), torch.Size(shape), CPU)
