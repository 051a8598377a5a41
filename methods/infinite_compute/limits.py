"""What a recipe is worth with unlimited compute: the limit of many members, of large models, of both; data efficiency.

Paper, §3-§5: ``L(N) = A / N^a + E`` over model sizes, ``L(K) = A / K^a + E`` over ensemble members, and their joint
limit: first ``K → ∞`` for each ``N``, then ``N → ∞``. Data efficiency: with the standard recipe's best loss over the
amount of data ``L(D) = A / D^b + C``, a recipe that reaches ``L*`` with ``D0`` is worth ``((A / (L* - C))^(1/b)) / D0``
times as much data.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from narrowgauge.methods.infinite_compute.power_law import PowerLaw, PowerLawFit, fit_power_law


@dataclass(frozen=True, slots=True)
class JointLimit:
    """``by_size``: the law over members of each model size; ``outer``: the law over sizes of their asymptotes."""

    by_size: tuple[PowerLawFit, ...]
    outer: PowerLawFit

    @property
    def asymptote(self) -> float:
        """The loss for infinitely many members of infinite size."""
        return self.outer.law.asymptote


def joint_limit(sizes: Sequence[float], members: Sequence[float], losses: Sequence[Sequence[float]]) -> JointLimit:
    """The limit over members, then over sizes; ``losses[i][k]`` is that of ``members[k]`` models of ``sizes[i]``.

    Raises ``ValueError`` for fewer than three sizes or members, and as :func:`fit_power_law`.
    """
    if len(losses) != len(sizes):
        raise ValueError(f"losses: expected a row for each of {len(sizes)} sizes, got {len(losses)}")
    by_size = tuple(fit_power_law(members, row) for row in losses)
    return JointLimit(by_size, fit_power_law(sizes, [fit.law.asymptote for fit in by_size]))


def data_efficiency(standard: PowerLaw, loss: float, data: float) -> float:
    """How many times ``data`` the standard recipe needs for ``loss``; ``standard`` is its law over the data.

    ``data`` is in the unit of the law, above 0. Raises ``ValueError`` where the standard recipe never gets there.
    """
    if not data > 0:
        raise ValueError(f"data: expected an amount above 0, got {data!r}")
    return standard.inverse(loss) / data
