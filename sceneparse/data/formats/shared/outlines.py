"""What JSON files hold, at a glance: the keys by which formats are recognised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from sceneparse.errors import InputError
from sceneparse.files import read_json

# Enough to recognise a folder, whatever else lies in it.
_MAX_FILES = 50


@dataclass(frozen=True)
class Outline:
    """The keys of a JSON object, or of the first object in a list.

    `inner`: the keys of the first object in each value that is an object or a list of objects.
    """

    keys: frozenset[str] = frozenset()
    inner: Mapping[str, frozenset[str]] = field(default_factory=dict)


def json_files(source: Path) -> list[Path]:
    """Return a JSON file itself, or the first JSON files in a folder and below."""
    if source.is_dir():
        found = (path for path in source.rglob("*.json") if not path.name.startswith("."))
        return sorted(islice(filter(Path.is_file, found), _MAX_FILES))
    return [source] if source.suffix.lower() == ".json" and source.is_file() else []


@lru_cache(maxsize=2 * _MAX_FILES)
def outline_of(path: Path) -> Outline:
    """Return the outline of a JSON file; an empty one if it is damaged, which its reader names."""
    if not path.is_file():  # a pipe would not end
        return Outline()
    try:
        content = read_json(path)
    except InputError:
        return Outline()
    top = _first_object(content)
    inner = {key: frozenset(_first_object(value)) for key, value in top.items()}
    return Outline(frozenset(top), inner)


def _first_object(value: Any) -> Mapping[str, Any]:  # noqa: ANN401 - JSON holds anything
    if isinstance(value, list) and value:
        value = value[0]
    return value if isinstance(value, dict) else {}
