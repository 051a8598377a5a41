"""`narrowgauge recipes`: the published linear layers that `convert` knows, and one of them in full."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING, Any

from narrowgauge.commands.output import print_json, print_table, print_text

if TYPE_CHECKING:
    from narrowgauge.nn import Recipe

SUMMARY = "the recipes of quantised layers, and what each does to its three products"
DESCRIPTION = """\
List the recipes that `ng.convert(model, recipe)` and `narrowgauge train --recipe` take, or show one: its six operands,
what is done around them, where it comes from, what belongs to it, and the same as TOML, to change and use as your own.

examples:
  narrowgauge recipes
  narrowgauge recipes nvfp4
  narrowgauge recipes nvfp4 --toml > mine.toml
  narrowgauge recipes mine.toml
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="a recipe, or a .toml file with one")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--json", action="store_true", help="print JSON")
    kinds.add_argument("--toml", action="store_true", help="print the recipe as TOML")
    kinds.add_argument("--markdown", action="store_true", help="print the page docs/recipes.md")


def run(args: argparse.Namespace) -> int:
    """Prints the list, or one recipe."""
    from narrowgauge.nn import RECIPES, get_recipe

    if args.name is None:
        if args.toml:
            raise ValueError("--toml: expected the NAME of a recipe")
        if args.markdown:
            from narrowgauge.commands.recipe_page import page

            print_text(page().rstrip("\n"))
        elif args.json:
            print_json([described(recipe) for recipe in RECIPES.values()])
        else:
            print_table(("<recipe", "<X", "<W", "<dY", "<more", "<source"), [row(r) for r in RECIPES.values()])
            print_text("\n`narrowgauge recipes NAME` shows one in full")
        return 0
    if args.markdown:
        raise ValueError("--markdown: the page is of all recipes; leave out NAME")
    recipe = get_recipe(args.name)
    if args.json:
        print_json(described(recipe))
    elif args.toml:
        print_text(toml(recipe))
    else:
        _print(recipe, args.name)
    return 0


def described(recipe: Recipe) -> dict[str, Any]:
    """Plain data of a recipe, every slot named."""
    slots = {slot: None if scheme is None else str(scheme) for slot, scheme in recipe.slots.items()}
    return {**recipe.to_dict(), **slots, "bits": recipe.bits, "stochastic": recipe.stochastic}


def row(recipe: Recipe) -> tuple[str, ...]:
    """A line of the list: what X, W and dY are in their two products, one text where both are alike."""
    pairs = {"x": ("x_fprop", "x_wgrad"), "w": ("w_fprop", "w_dgrad"), "g": ("g_dgrad", "g_wgrad")}
    cells = []
    for first, second in pairs.values():
        texts = [str(recipe.slots[slot] or "-") for slot in (first, second)]
        cells.append(texts[0] if texts[0] == texts[1] else f"{texts[0]} | {texts[1]}")
    return recipe.name, *cells, ", ".join(extras(recipe)) or "-", recipe.source


def extras(recipe: Recipe) -> list[str]:
    """What a recipe does beside its slots."""
    told = [f"{name.removeprefix('out_')} result {scheme}" for name, scheme in recipe.outputs.items() if scheme]
    told += [f"sums {recipe.accumulate}"] if recipe.accumulate else []
    told += ["backward from quantised forward operands"] if recipe.requantize else []
    told += [f"W by {recipe.weight_map}"] if recipe.weight_map else []
    told += [f"X by {recipe.input_map}"] if recipe.input_map else []
    told += [f"weights kept on {recipe.update}"] if recipe.update else []
    told += [f"first {recipe.keep[0]} and last {recipe.keep[1]} blocks kept"] if any(recipe.keep) else []
    return told


def toml(recipe: Recipe) -> str:
    """The recipe as a file that `get_recipe` reads back."""
    lines = []
    for key, value in recipe.to_dict().items():
        if isinstance(value, bool):
            text = str(value).lower()
        elif isinstance(value, str):
            text = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        else:
            text = str(value)
        lines.append(f"{key} = {text}")
    return "\n".join(lines)


def _print(recipe: Recipe, asked: str) -> None:
    """asked: the name that was given, a path for the recipe of a file."""
    from narrowgauge.nn import GEMMS

    print_text(f"{recipe.name}: {recipe.source or 'no source given'}")
    axes = {"fprop": "Y = X·Wᵀ", "dgrad": "dX = dY·W", "wgrad": "dW = dYᵀ·X"}
    rows = [
        (gemm, axes[gemm], *(str(recipe.slots[slot] or "high precision") for slot in slots))
        for gemm, slots in GEMMS.items()
    ]
    print_table(("<GEMM", "<product", "<first operand", "<second operand"), rows)
    for text in extras(recipe):
        print_text(f"also: {text}")
    for name in ("advice", "caveat"):
        if getattr(recipe, name):
            print_text(f"{name}: {getattr(recipe, name)}")
    print_text(f"\nuse it: ng.convert(model, {asked!r}), narrowgauge train --recipe {shlex.quote(asked)}")
