"""List the recipes that come with sceneparse, or print one to start from."""

import argparse

from sceneparse.cli.command import command_parser

EXAMPLES = """\
  sceneparse recipes
  sceneparse recipes camvid_mobilenet > mine.yaml
  sceneparse train --config mine.yaml data.root=DATA"""


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    result = command_parser("recipes", "List the recipes, or print one.", EXAMPLES)
    result.add_argument("name", nargs="?", metavar="NAME", help="print the YAML of this recipe")
    return result


def main(options: argparse.Namespace) -> None:
    """Print a recipe, or one line per recipe."""
    from sceneparse.config.recipes import find_config, list_recipes
    from sceneparse.files import read_text

    if options.name is not None:
        print(read_text(find_config(options.name)), end="")
        return
    recipes = list_recipes()
    rows = [(recipe.name, recipe.dataset, recipe.network) for recipe in recipes]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row, recipe in zip(rows, recipes, strict=True):
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)]
        print("  ".join([*cells, recipe.expected]))
