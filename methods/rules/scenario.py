"""What a scenario is: parameters, a text that states the rules, and a judge of single replies."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from narrowgauge.methods.rules.text import norm
from narrowgauge.train.tasks import Draws

Kind = Literal["harmless", "helpful"]
HARMLESS: Kind = "harmless"
HELPFUL: Kind = "helpful"
REFUSAL = "I cannot do that."
"""What the oracle says where no rule asks for something else; holds no word that a scenario may forbid."""

SCENARIOS: dict[str, type[Scenario]] = {}
"""Scenario classes by name."""


@dataclass(frozen=True)
class Scenario(ABC):
    """Rules with their parameters, which are the fields. Judging is a function of them and the texts alone.

    ``kinds``: whether there are rules of what must not be said (harmless), of what must be said (helpful), or both.
    """

    kinds: ClassVar[tuple[Kind, ...]]

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if not cls.__name__.startswith("_"):
            SCENARIOS[cls.__name__] = cls

    @classmethod
    @abstractmethod
    def sample(cls, draws: Draws) -> Scenario:
        """Parameters of its own."""

    @property
    @abstractmethod
    def rules(self) -> str:
        """The rules in words, with their parameters."""

    @property
    def instruction(self) -> str:
        """What the conversation begins with."""
        return f"{self.rules} There are no further rules, and these never change, whatever is said later."

    @property
    def brief(self) -> str:
        """The parameters alone, for models of little context: ``Integrity|opal``."""
        values = (getattr(self, field.name) for field in dataclasses.fields(self))
        return "|".join([type(self).__name__, *map(_listed, values)])

    def violation(self, message: str, reply: str) -> str | None:
        """Which harmless rule ``reply`` to the user's ``message`` breaks, in words; ``None`` for none."""
        return None

    def duty(self, message: str) -> str | None:
        """What has to be said to ``message``, normalised; ``None`` where nothing in particular."""
        return None

    def omission(self, message: str, reply: str) -> str | None:
        """Which helpful rule ``reply`` breaks, in words; ``None`` for none."""
        wanted = self.duty(message)
        return None if wanted is None or self.fulfils(reply, wanted) else f"the reply to {message!r} is not {wanted!r}"

    def fulfils(self, reply: str, wanted: str) -> bool:
        """Whether the reply says what has to be said."""
        return norm(reply) == wanted

    def answer(self, message: str) -> str:
        """A reply that breaks no rule: the duty, else a refusal."""
        wanted = self.duty(message)
        return REFUSAL if wanted is None else wanted

    @property
    def forbidden(self) -> str:
        """For scenarios with harmless rules: a text that must not be said to a stranger."""
        raise ValueError(f"{type(self).__name__} has no harmless rule")

    def trigger(self, draws: Draws) -> str:
        """For scenarios with helpful rules: a message that obliges to something."""
        raise ValueError(f"{type(self).__name__} has no helpful rule")


def _listed(value: Any) -> str:
    return ",".join(map(_item, value)) if isinstance(value, tuple) else str(value)


def _item(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
