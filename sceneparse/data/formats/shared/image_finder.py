"""Find the images that annotations name, below one folder and nowhere else."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePath

from sceneparse.data.pairing import find_images, relative_name
from sceneparse.errors import InputError, first_few
from sceneparse.files import is_file

# Parts of a path that name nothing below a folder: "", ".", "..", the drive "C:" of Windows.
_NO_NAME = re.compile(r"\.{0,2}|[A-Za-z]:")


def _last(path: str) -> str:
    """Return the last part of a path with slashes."""
    return path.rsplit("/", 1)[-1]


class ImageFinder:
    """Finds the images that annotations name, below one folder and nowhere else.

    Tools write absolute paths, Windows paths, paths from where the tool was started, or bare names.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise InputError(f"folder '{folder}' of the images does not exist; give --images")
        self.folder = folder

    @cached_property
    def _by_name(self) -> dict[str, dict[Path, int]]:
        """All images by whole path, path without suffix, name, and name without suffix, in NFC.

        The number tells in which of these ways an image has a name; the smallest is the surest.
        """
        found: dict[str, dict[Path, int]] = defaultdict(dict)
        for path in find_images(self.folder)[0]:
            below = unicodedata.normalize("NFC", path.relative_to(self.folder).as_posix())
            bare = below.removesuffix(path.suffix)
            for way, key in enumerate((below, bare, _last(below), _last(bare))):
                found[key].setdefault(path, way)
        return found

    def find(self, name: str, source: object, beside: PurePath | None = None) -> Path:
        """Return the image called `name` in the annotation `source`; raises InputError.

        `beside`: the folder of the annotation, below the one of this finder; the image is looked
        for there first. Then the whole path below the folder is tried, then ever shorter ends; of
        several images the nearest to `beside`, which shares the most folders with it.
        """
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"{source}: expected the name of an image, got '{name}'")
        text = unicodedata.normalize("NFC", name.strip()).replace("\\", "/")
        parts = [part for part in text.split("/") if not _NO_NAME.fullmatch(part)]
        direct = self.folder.joinpath(*parts)  # on Windows, a part "D:x" leads elsewhere
        is_below = parts and direct.is_relative_to(self.folder)
        if beside is None and is_below and is_file(direct):  # no walk through a large folder
            return direct
        ends = ["/".join(parts[start:]) for start in range(len(parts))]
        if beside is not None:
            ends = [_below(beside, text), *(_below(beside, end) for end in ends), *ends]
        for end in ends:
            paths = self._candidates(end, beside)
            if len(paths) > 1:
                raise InputError(
                    f"{source}: image '{name}' may be {first_few(paths)}; give a folder that holds "
                    "one of them with --images"
                )
            if paths:
                return paths[0]
        raise InputError(
            f"{source}: image '{name}' is not in {self.folder}; give its folder with --images"
        )

    def find_stem(self, stem: str, beside: PurePath) -> Path | None:
        """Return the one image of this name without suffix: in the folder `beside`, or anywhere."""
        for name in (_below(beside, stem), stem):
            paths = self._candidates(unicodedata.normalize("NFC", name), beside)
            if len(paths) == 1:
                return paths[0]
        return None

    def _candidates(self, name: str, beside: PurePath | None) -> Sequence[Path]:
        """Return the images of a name: those nearest to `beside`, of these the surest."""
        ways, parts = self._by_name.get(name, {}), () if beside is None else beside.parts
        ranks = {
            path: (-len(posixpath.commonprefix([path.relative_to(self.folder).parts, parts])), way)
            for path, way in ways.items()
        }
        return [path for path, rank in ranks.items() if rank == min(ranks.values())]

    def find_stored(self, name: str) -> Path | None:
        """Return the one image that a web server stores by this name.

        Django and others put "_" in place of spaces and drop most signs: x (1).jpg is x_1.jpg.
        """
        paths = self._by_stored_name.get(name, [])
        return paths[0] if len(paths) == 1 else None

    @cached_property
    def _by_stored_name(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = defaultdict(list)
        for path in find_images(self.folder)[0]:
            name = unicodedata.normalize("NFC", path.name).strip().replace(" ", "_")
            found[re.sub(r"[^-\w.]", "", name)].append(path)
        return found

    def name_of(self, image: Path) -> str:
        """Return the name of an image in the result: its path below the folder, no suffix."""
        return relative_name(self.folder, image)


def _below(folder: PurePath, name: str) -> str:
    """Return the path of a name in a folder, without "..": a/labels and ../x.jpg are a/x.jpg."""
    return unicodedata.normalize("NFC", posixpath.normpath(f"{folder.as_posix()}/{name}"))
