"""Recognise the files that predict wrote, so that a second run does not predict its own results."""

import json
import os
from contextlib import suppress
from pathlib import Path

from sceneparse.errors import InputError
from sceneparse.files import is_file, read_json, read_text

# What a prediction can be written as.
KINDS = ("index", "color", "overlay", "raw", "probabilities")
SHARES_FILE = "shares.json"
# In an output folder: a JSON string per line, the path of each file that was written there.
_LIST_FILE = ".sceneparse_results"
_MAX_SIZE = 2**28


class ResultList:
    """The list of results in an output folder; `add` a file before it is written."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self._known = _listed(output) or set()

    def add(self, path: Path) -> None:
        """Add a file in the output folder, which must exist."""
        if (name := path.relative_to(self._output).as_posix()) in self._known:
            return
        self._known.add(name)
        with (self._output / _LIST_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(name) + "\n")


class EarlierResults:
    """Finds the results of earlier predictions among files; `skipped` collects them by folder."""

    def __init__(self) -> None:
        self._folders: dict[Path, set[str]] = {}
        self.skipped: dict[Path, set[Path]] = {}

    def contains(self, path: Path) -> bool:
        """Return whether a file is a result, also if it is named by a link; then count it."""
        try:
            real = Path(os.path.realpath(path))
        except ValueError:  # not the name of a file
            return False
        for folder in real.parents:
            if folder not in self._folders:
                self._folders[folder] = _listed(folder) or _implied_by_shares(folder)
            if real.relative_to(folder).as_posix() in self._folders[folder]:
                self.skipped.setdefault(folder, set()).add(real)
                return True
        return False


def _listed(folder: Path) -> set[str]:
    """Return the results in an output folder by their paths in it; empty without a list."""
    path = folder / _LIST_FILE
    with suppress(InputError, ValueError):
        lines = read_text(path, _MAX_SIZE).splitlines() if is_file(path) else []
        return {str(json.loads(line)) for line in lines} | ({_LIST_FILE} if lines else set())
    return set()


def _implied_by_shares(folder: Path) -> set[str]:
    """Return the results that shares.json implies, if an older version wrote no list."""
    path = folder / SHARES_FILE
    with suppress(InputError):
        shares = read_json(path, _MAX_SIZE) if is_file(path) else None
        if isinstance(shares, dict) and all(isinstance(of, dict | list) for of in shares.values()):
            ends = [f"{name}{suffix}" for name in shares for suffix in (".png", ".mp4")]
            videos = [(name, len(of)) for name, of in shares.items() if isinstance(of, list)]
            ends += [f"{name}/{k:06d}.png" for name, count in videos for k in range(count)]
            return {SHARES_FILE, *(f"{kind}/{end}" for kind in KINDS for end in ends)}
    return set()
