"""QATConfig and its parts: frozen, checked when made."""

from __future__ import annotations

import dataclasses

import pytest

from narrowgauge.nn.qat import LLMQATActivation, LSQWeight, Phase, QATConfig, part


def test_parts_compare_by_what_they_make() -> None:
    assert part(LSQWeight, bits=3) == part(LSQWeight, bits=3)
    assert part(LSQWeight, bits=3) != part(LSQWeight, bits=4)
    assert str(part(LSQWeight, bits=3)) == "LSQWeight(bits=3)"
    first, second = part(LSQWeight, bits=3).make(), part(LSQWeight, bits=3).make()
    assert first is not second


def test_wrong_settings_are_refused_when_the_part_is_made() -> None:
    with pytest.raises(ValueError, match="bits: got 12, accepted: 2, 3"):
        part(LSQWeight, bits=12)


def test_a_config_is_frozen_and_knows_its_kinds() -> None:
    config = QATConfig(name="mine", weight=part(LSQWeight, bits=3))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.name = "other"
    with pytest.raises(TypeError, match="activation: expected part"):
        QATConfig(name="mine", weight=part(LSQWeight), activation=part(LSQWeight))
    with pytest.raises(TypeError, match="weight: expected part"):
        QATConfig(name="mine", weight=part(LLMQATActivation))
    with pytest.raises(TypeError, match="weight: expected part"):
        QATConfig(name="mine", weight=None)


def test_phases() -> None:
    assert [Phase(2, 4).strength(step) for step in (0, 1, 2, 3, 4, 6, 99)] == [0, 0, 0, 0.25, 0.5, 1, 1]
    assert [Phase(2).strength(step) for step in (1, 2)] == [0, 1]
    for wrong in ({"start": -1}, {"start": 1.5}, {"start": 0, "ramp": True}):
        with pytest.raises(ValueError, match="accepted: a whole number of steps"):
            Phase(**wrong)
