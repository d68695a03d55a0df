"""The recipes that come with sceneparse: configurations in `configs/`, found by name.

The first line of each is a comment of three parts: dataset | network | expected score and time.
"""

import difflib
import os
from pathlib import Path
from typing import NamedTuple

from sceneparse.errors import InputError
from sceneparse.files import is_file, read_text

_PACKAGE = Path(__file__).parents[1]


class Recipe(NamedTuple):
    """A recipe's name and what its first line says."""

    name: str
    dataset: str
    network: str
    expected: str


def recipe_paths() -> dict[str, Path]:
    """Return the file of every recipe by name; a recipe in a sub-folder has a slash in its name."""
    folder = _PACKAGE / "configs"
    if not folder.is_dir():  # not installed but in a clone
        folder = _PACKAGE.parent / "configs"
    files = sorted(folder.rglob("*.yaml"))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}


def list_recipes() -> list[Recipe]:
    """Describe all recipes, sorted by name."""
    summaries = {name: read_text(path).partition("\n")[0] for name, path in recipe_paths().items()}
    return [
        Recipe(name, *(part.strip() for part in summary.lstrip("# ").split("|")))
        for name, summary in summaries.items()
    ]


def find_config(given: str, folder: Path | None = None) -> Path:
    """Return the configuration that `given` names: a file (relative to `folder`), or a recipe.

    A file comes first. Raises InputError with the nearest names for a recipe that does not exist.
    """
    path = Path(folder or "", os.path.expanduser(given))  # noqa: PTH111 - raises for no such user
    if is_file(path) or path.suffix in {".yaml", ".yml"}:
        return path  # if it cannot be read, reading it raises the error
    recipes = recipe_paths()
    if given in recipes:
        return recipes[given]
    if path.exists():
        raise InputError(f"'{given}' is not a file; give a YAML file or the name of a recipe")
    hint = "`sceneparse recipes` lists them"
    if nearest := difflib.get_close_matches(given, recipes, n=3, cutoff=0.4):
        hint = f"the nearest recipes: {', '.join(nearest)} (`sceneparse recipes` lists all)"
    raise InputError(f"there is no file and no recipe '{given}'; {hint}")
