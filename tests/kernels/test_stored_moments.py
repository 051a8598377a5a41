"""Stored moments of whole tensors: what every codec promises, against the definition, on the CPU and by the functions
that serve other devices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from narrowgauge.kernels._moments_anywhere import decode_stored, encode_stored
from narrowgauge.kernels._moments_reference import Stored as StoredArrays
from narrowgauge.kernels._moments_reference import decode_pair, encode_pair, encode_reference
from narrowgauge.kernels.codecs import CODECS, first_moment, lone_moment, second_moment
from narrowgauge.kernels.moments import MomentCodec, empty_moment
from narrowgauge.kernels.stored_moments import Stored, read_moments, write_moments

PAIRS = {name: pair for name, pair in CODECS.items() if pair[1].fused}
PAIRS |= {
    "nf4, udynamic4": (first_moment("nf4/1x64"), second_moment("udynamic4/1x32")),
    "hif8, posit": (first_moment("hif8/1x128"), second_moment("posit8es1/1x128")),
    "int6f3, rf8": (first_moment("int6f3/1x32"), second_moment("rf8/1x256")),
    "int4, uint4": (first_moment("int4/1x32"), second_moment("uint4/1x32")),
    "log8, int8": (first_moment("log8"), second_moment("int8")),
    "log4, bf16": (first_moment("log4"), second_moment("bf16")),
    "fp32, log4": (first_moment("fp32"), second_moment("log4")),
}
PAIR_IDS = list(PAIRS)
ALONE = [codec for pair in PAIRS.values() for codec in pair if codec.is_coded]
ALONE += [lone_moment(name) for name in ("log8", "log4", "flash")]
ALONE = [*dict.fromkeys(codec._replace(whitened=False) for codec in ALONE)]
SECOND = [codec for codec in ALONE if codec.second]
KEYS, OFFSET = (3, 4), 2**18 - 1024


def label(codec: MomentCodec) -> str:
    kind = f"{codec.kind}-{codec.format}-{'v' if codec.second else 'm'}{codec.bits}"
    return f"{kind}-{codec.group}-{codec.rounding}-{codec.power_steps}"


def moments(count: int, spread: float, seed: int = 5) -> tuple[Tensor, Tensor]:
    """m and v with zeros among them."""
    rng = np.random.default_rng(seed)
    m = 1e-4 * rng.standard_normal(count) * np.exp(spread * rng.standard_normal(count))
    m[rng.random(count) < 0.1] = 0.0
    v = m**2 * rng.random(count)
    return torch.from_numpy(m.astype(np.float32)), torch.from_numpy(v.astype(np.float32))


def new(codec: MomentCodec, x: Tensor) -> Stored:
    return Stored(*empty_moment(codec, x))


def store(codec: MomentCodec, x: Tensor) -> Stored:
    """One moment alone."""
    stored = new(codec, x)
    if codec.second:
        write_moments(None, codec, None, x, None, stored, KEYS, OFFSET)
    else:
        write_moments(codec, None, x, None, stored, None, KEYS, OFFSET)
    return stored


def load(codec: MomentCodec, stored: Stored, shape: torch.Size) -> Tensor:
    pair = (None, codec, None, stored) if codec.second else (codec, None, stored, None)
    values = read_moments(*pair, shape, KEYS, OFFSET)[codec.second]
    assert values is not None
    return values


def round_trip(codec: MomentCodec, x: Tensor) -> Tensor:
    return load(codec, store(codec, x), x.shape)


def arrays(stored: Stored) -> StoredArrays:
    codes, scale = (None if t is None else t.float() if t.dtype is torch.bfloat16 else t for t in stored)
    assert codes is not None
    return StoredArrays(codes.numpy().reshape(-1), np.zeros((0, 0)) if scale is None else scale.numpy())


def differing(codec: MomentCodec, ours: Stored, theirs: StoredArrays) -> tuple[int, int]:
    """How many codes differ from the definition's, and by how much at most."""
    a, b = arrays(ours).codes.astype(np.float64), theirs.codes.astype(np.float64)
    if codec.per_byte > 1:
        a, b = (np.stack((x % 16, x // 16), axis=1).reshape(-1) for x in (a, b))
    difference = np.abs(a - b)
    return int(np.count_nonzero(difference)), int(np.max(difference, initial=0.0))


@pytest.mark.parametrize("name", PAIR_IDS)
@pytest.mark.parametrize("spread", [0.0, 3.0, 12.0])
def test_codes_and_values_are_those_of_the_definition(name: str, spread: float) -> None:
    first, second = PAIRS[name]
    m, v = moments(5003, spread)
    ours = new(first, m), new(second, v)
    write_moments(first, second, m, v, *ours, KEYS, OFFSET)
    with np.errstate(all="ignore"):
        theirs = encode_pair(m.double().numpy(), v.double().numpy(), first, second, KEYS, OFFSET)
        values = decode_pair(*map(arrays, ours), first, second, 5003, KEYS, OFFSET)
    for codec, stored, expected in zip((first, second), ours, theirs, strict=True):
        count, largest = differing(codec, stored, expected)
        # Rounding errors of a logarithm or a draw's comparison; a whitened code follows the second moment's.
        assert count <= 4
        assert codec.kind == "plain" or largest <= (4 if codec.whitened else 1)
        if stored.scale is not None and count == 0:
            last_bit = 1.0 if codec.kind == "log" else 0.0
            np.testing.assert_allclose(arrays(stored).scale, expected.scale, rtol=3e-5, atol=last_bit)
    for read, expected_values in zip(read_moments(first, second, *ours, m.shape, KEYS, OFFSET), values, strict=True):
        assert read is not None
        np.testing.assert_allclose(read.numpy(), expected_values, rtol=1e-5, atol=1e-44)


@pytest.mark.parametrize("codec", ALONE, ids=label)
@pytest.mark.parametrize("spread", [0.0, 3.0])
def test_functions_for_other_devices_give_the_same(codec: MomentCodec, spread: float) -> None:
    m, v = moments(5003, spread)
    x = v if codec.second else m
    x[1000], x[3000] = float("nan"), float("inf")
    ours, theirs = store(codec, x), new(codec, x)
    key = KEYS[codec.second]
    encode_stored(codec, x, *theirs, key, OFFSET)
    count, largest = differing(codec, ours, arrays(theirs))
    assert count <= 1
    assert largest <= 1
    assert ours.scale is not None
    torch.testing.assert_close(ours.scale, theirs.scale, rtol=0.0, atol=0.0, equal_nan=True)
    values = decode_stored(codec, *ours, x.numel(), key, OFFSET)
    torch.testing.assert_close(load(codec, ours, x.shape), values, rtol=4e-6, atol=0.0, equal_nan=True)


@pytest.mark.parametrize("codec", ALONE, ids=label)
@pytest.mark.parametrize("count", [1, 128, 301])
def test_zeros_read_back_as_zeros(codec: MomentCodec, count: int) -> None:
    assert torch.equal(round_trip(codec, torch.zeros(count)), torch.zeros(count))
    assert torch.equal(load(codec, new(codec, torch.zeros(count)), torch.Size([count])), torch.zeros(count))


@pytest.mark.parametrize("codec", [c for c in ALONE if c.rounding == "nearest" or c.second], ids=label)
def test_zero_reads_back_as_zero_among_others(codec: MomentCodec) -> None:
    x = torch.randn(1024, generator=torch.Generator().manual_seed(0)).abs()
    x[::3] = 0.0
    assert torch.equal(round_trip(codec, x)[::3], torch.zeros(342))


@pytest.mark.parametrize("codec", SECOND, ids=label)
@pytest.mark.parametrize("tiny", [1e-10, 1e-20, 1e-37])
def test_positive_second_moment_never_reads_back_as_zero(codec: MomentCodec, tiny: float) -> None:
    v = torch.ones(256)
    v[5], v[9] = tiny, 0.0
    read = round_trip(codec, v)
    assert read[5] > 0.0
    assert read[9] == 0.0


@pytest.mark.parametrize("codec", ALONE, ids=label)
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_in_its_group(codec: MomentCodec, poison: float) -> None:
    x = torch.rand(2048, generator=torch.Generator().manual_seed(3)) + 0.1
    clean = round_trip(codec, x).view(-1, codec.group)
    x[codec.group + 5] = poison
    read = round_trip(codec, x).view(-1, codec.group)
    assert torch.isnan(read[1]).all()
    others = torch.arange(len(read)) != 1
    assert torch.equal(read[others], clean[others])


@pytest.mark.parametrize("name", PAIR_IDS)
def test_a_tensor_without_elements_is_stored(name: str) -> None:
    first, second = PAIRS[name]
    x = torch.zeros(3, 0)
    stored = new(first, x), new(second, x)
    write_moments(first, second, x, x, *stored)
    assert [read.shape for read in read_moments(first, second, *stored, x.shape) if read is not None] == [x.shape] * 2


@pytest.mark.parametrize("name", PAIR_IDS)
def test_parts_are_stored_as_the_whole(name: str) -> None:
    """A shard that begins with a group draws, rounds and reads as the whole tensor does."""
    first, second = PAIRS[name]
    m, v = moments(3000, 1.0)
    whole = new(first, m), new(second, v)
    write_moments(first, second, m, v, *whole, KEYS)
    parts = []
    for start, stop in ((0, 1280), (1280, 3000)):
        part = new(first, m[start:stop]), new(second, v[start:stop])
        write_moments(first, second, m[start:stop], v[start:stop], *part, KEYS, start)
        parts.append(read_moments(first, second, *part, torch.Size([stop - start]), KEYS, start))
    for which, read in enumerate(read_moments(first, second, *whole, m.shape, KEYS)):
        joined = [part[which] for part in parts]
        assert read is not None
        assert torch.equal(read, torch.cat([x for x in joined if x is not None]))


@pytest.mark.parametrize("codec", [c for c in SECOND if c.draws], ids=label)
def test_second_moments_are_rounded_without_bias(codec: MomentCodec) -> None:
    x = torch.linspace(1.0, 1.9, codec.group).repeat(40 * 1024 // codec.group)
    error = round_trip(codec, x) / x - 1
    bound = 5 * float(error.std()) / len(x) ** 0.5
    assert 0 < abs(float(error.mean())) < bound


def test_the_whole_tensor_kinds_are_read_and_whiten() -> None:
    m, v = (x.view(50, 100) for x in moments(5000, 0.3))
    first, second = first_moment("log8"), second_moment("int4")
    stored = new(first, m), new(second, v)
    write_moments(first, second, m, v, *stored, KEYS)
    read_m, read_v = read_moments(first, second, *stored, m.shape, KEYS)
    assert read_m is not None
    assert read_v is not None
    error = (read_m - m)[read_v > 0]
    assert float(error.square().mean().sqrt()) < 0.05 * float(m.square().mean().sqrt())
    assert encode_reference(v.double().numpy(), second).codes.tolist() == stored[1].codes.tolist()


def test_a_whitened_moment_needs_the_second() -> None:
    with pytest.raises(ValueError, match="first: this codec stores m relative to v"):
        read_moments(first_moment("log8"), None, None, None, torch.Size([3]))


def test_strided_moments_are_stored_as_contiguous_ones() -> None:
    m, v = (x.view(40, 50).t() for x in moments(2000, 0.5))
    first, second = CODECS["log8"]
    one, other = ((new(first, m), new(second, v)) for _ in range(2))
    write_moments(first, second, m, v, *one, KEYS)
    write_moments(first, second, m.contiguous(), v.contiguous(), *other, KEYS)
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.codes, b.codes)


@pytest.mark.parametrize("codec", [*ALONE, first_moment("flash")._replace(scale_dtype="bfloat16")], ids=label)
def test_reading_changes_nothing_that_is_stored(codec: MomentCodec) -> None:
    m, v = moments(700, 1.0)
    x = v if codec.second else m
    into = Stored(*empty_moment(codec, x))
    pair = (None, codec) if codec.second else (codec, None)
    write_moments(*pair, None if codec.second else x, x if codec.second else None,
                  None if codec.second else into, into if codec.second else None, KEYS)  # fmt: skip
    before = [None if t is None else t.clone() for t in into]
    read_moments(*pair, None if codec.second else into, into if codec.second else None, x.shape, KEYS)
    for value, kept in zip(into, before, strict=True):
        assert (value is None and kept is None) or torch.equal(value, kept)
