"""What recipes do to training: the same run with each recipe, beside fp32 and bf16, seed by seed.

A run is (seed, recipe): a byte-level Llama, whose linear layers but the last follow the recipe, trained with
torch.optim.AdamW in float32. Runs of one seed have the same initial weights, the same batches and the same schedule, so
that they differ in the recipe alone. `bf16` is the recipe of that name where there is one, else torch.autocast.

Two runs that differ by one rounding end at different losses. How far apart is measured by twins of fp32 from initial
weights p · (1 + s · n), n ~ N(0, 1): `fp32-perturbed` with s in the last bit, and `fp32-moved` with the s of a rounding
to eight bits, since chance grows with the kick. A gap of their size says nothing.

Each run has a folder of its own: a command that was killed goes on where it was, to the same bits, and several
processes may share the work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from narrowgauge.bench.recipes_run import BF16, CHANCE, RecipeResult, RecipeRun, RecipeSettings, definition, train_run
from narrowgauge.bench.training_run import BASELINE
from narrowgauge.bench.training_runs import train_all
from narrowgauge.nn import RECIPES, Recipe, get_recipe
from narrowgauge.train import ByteCorpus, Logger

Columns = Mapping[str, Recipe | None]
"""What is trained, by name; None for a baseline that is no recipe."""


def choose(texts: Sequence[str] | None = None) -> Columns:
    """fp32 and bf16, then the recipes of `texts` (None: all that have a name), then fp32's twins.

    A text is a recipe's name, the path of a TOML file with a recipe, or a scheme, which then fills all six slots.
    ValueError for what is none of them, and for two different recipes of one name.
    """
    chosen: dict[str, Recipe | None] = {BASELINE: None, BF16: RECIPES.get(BF16)}
    for text in RECIPES if texts is None else texts:
        found = get_recipe(text)
        if found.name in CHANCE:
            raise ValueError(f"recipe: {found.name} is the name of a baseline; give another name than in {text}")
        known = chosen.get(found.name) or RECIPES.get(found.name)
        if known is not None and definition(known) != definition(found):
            raise ValueError(f"recipe: {text} has the name of another recipe, {found.name!r}; give another name")
        if found.name != BASELINE:
            chosen[found.name] = found
    return {**chosen, **dict.fromkeys(CHANCE)}


def plan(columns: Columns, seeds: int) -> list[RecipeRun]:
    """All runs, by seed, so that whole comparisons are there early. ValueError for no seeds."""
    if seeds < 1:
        raise ValueError(f"seeds: expected at least 1, got {seeds}")
    return [RecipeRun(seed, name, definition(column)) for seed in range(seeds) for name, column in columns.items()]


def run_all(
    runs: Sequence[RecipeRun],
    columns: Columns,
    settings: RecipeSettings,
    folder: Path,
    *,
    save_every: int = 100,
    logger: Callable[[str], Logger] | None = None,
    finished: Callable[[RecipeResult, int], None] | None = None,
    failed: Callable[[RecipeRun, Exception], None] | None = None,
) -> list[RecipeResult]:
    """Trains what `folder` does not hold yet, as `train_all` does."""

    def train(
        run: RecipeRun,
        settings: RecipeSettings,
        corpus: ByteCorpus,
        folder: Path,
        *,
        save_every: int,
        logger: Logger | None = None,
    ) -> RecipeResult:
        return train_run(
            run, settings, corpus, folder, recipe=columns[run.recipe], save_every=save_every, logger=logger
        )

    return train_all(
        runs,
        settings,
        folder,
        train,
        RecipeResult,
        save_every=save_every,
        logger=logger,
        finished=finished,
        failed=failed,
    )
