"""Recognise the files that predict wrote, so that a second run does not predict its own results."""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from sceneparse.errors import InputError
from sceneparse.files import is_file, read_json, read_text

SHARES_FILE = "shares.json"
# In an output folder: a JSON string per line, the path of each file that was written there.
_LIST_FILE = ".sceneparse_results"
_MAX_SIZE = 2**28


class ResultList:
    """The list of results in an output folder; `add` a file before it is written."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self._known: set[str] | None = None
        self._file: IO[str] | None = None

    def add(self, path: Path) -> None:
        """Add a file in the output folder, which must exist."""
        if self._known is None:
            self._known = _listed(self._output) or set()
        if (name := path.relative_to(self._output).as_posix()) in self._known:
            return
        self._known.add(name)
        if self._file is None:
            self._file = (self._output / _LIST_FILE).open("a", encoding="utf-8")
        self._file.write(json.dumps(name) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the list."""
        if self._file is not None:
            self._file.close()


class EarlierResults:
    """Finds the results of earlier predictions among files; `skipped` collects them by folder.

    `kinds`: the folders of results that an output folder of an older version may hold.
    """

    def __init__(self, kinds: Sequence[str]) -> None:
        self._kinds = kinds
        self._folders: dict[Path, set[str] | None] = {}
        self.skipped: dict[Path, set[Path]] = {}

    def hold(self, path: Path) -> bool:
        """Return whether a file is a result, whatever folder or link it was named by."""
        try:
            real = Path(os.path.realpath(path))
        except ValueError:  # not the name of a file
            return False
        for folder in real.parents:
            if folder not in self._folders:
                self._folders[folder] = _results_in(folder, self._kinds)
            names = self._folders[folder]
            if names and real.relative_to(folder).as_posix() in names:
                self.skipped.setdefault(folder, set()).add(real)
                return True
        return False


def _results_in(folder: Path, kinds: Sequence[str]) -> set[str] | None:
    """Return the results in an output folder by their paths in it; None if it is none."""
    return _listed(folder) or _implied_by_shares(folder, kinds)


def _listed(folder: Path) -> set[str] | None:
    with suppress(InputError, ValueError):
        if is_file(folder / _LIST_FILE):
            lines = read_text(folder / _LIST_FILE, _MAX_SIZE).splitlines()
            return {_LIST_FILE, *(str(json.loads(line)) for line in lines)}
    return None


def _implied_by_shares(folder: Path, kinds: Sequence[str]) -> set[str] | None:
    """Return the results that shares.json implies, where an older version wrote no list."""
    path = folder / SHARES_FILE
    with suppress(InputError):
        shares = read_json(path, _MAX_SIZE) if is_file(path) else None
        if not isinstance(shares, dict) or not all(
            isinstance(of, dict | list) for of in shares.values()
        ):
            return None
        names = {SHARES_FILE}
        for name, of in shares.items():
            files = [f"{name}.png", f"{name}.mp4"]
            files += [f"{name}/{k:06d}.png" for k in range(len(of))] if isinstance(of, list) else []
            names |= {f"{kind}/{file}" for kind in kinds for file in files}
        return names
    return None
