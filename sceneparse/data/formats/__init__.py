"""Formats that other tools write. Add one as a module here; it is then a format of `convert`.

A module has two functions. `recognise(source)` returns how it knows the format, or None. It looks
at the content, and is strict: it must not take the files of another tool. `read(source)` returns
the images, classes and how the masks are drawn; its keyword parameters are the options that the
format takes: `images` is --images. A module with `GENERAL = True` is asked only if no other
recognises the source; its `recognise` takes `images` too. The format's name is the module's, with
"-" for "_".
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sceneparse.data.formats.shared.outlines import json_files
from sceneparse.errors import InputError, refusing, unknown_name
from sceneparse.files import exists, read_json

if TYPE_CHECKING:
    from sceneparse.data.formats.shared.source import Source


# Files and folders in a source that are tried if it is of no format.
_MAX_INNER = 20
# Annotation tools export them.
_ARCHIVES = {".zip", ".tar", ".tgz", ".gz", ".7z", ".rar"}


@dataclass(frozen=True)
class Format:
    """A format: recognises and reads datasets. Its module is imported when it is first used."""

    name: str

    @cached_property
    def _module(self) -> Any:  # noqa: ANN401 - a module with the functions described above
        return import_module(f"{__name__}.{self.name.replace('-', '_')}")

    @property
    def description(self) -> str:
        """The first line of the module's docstring: what the format is."""
        return str(self._module.__doc__).splitlines()[0]

    @property
    def is_general(self) -> bool:
        """Whether others may recognise the same files better."""
        return bool(getattr(self._module, "GENERAL", False))

    @property
    def options(self) -> tuple[str, ...]:
        """The options that the format takes, without dashes."""
        parameters = inspect.signature(self._module.read).parameters.values()
        return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)

    def recognise(self, source: Path, images: Path | None = None) -> str | None:
        """Return how the format knows that `source` is of its kind; None if it is not."""
        given = (source, images) if self.is_general else (source,)
        found: str | None = self._module.recognise(*given)
        return found

    def read(self, source: Path, options: Mapping[str, object]) -> Source:
        """Read a dataset; `options` are those given. Raises InputError."""
        foreign = [f"--{option.replace('_', '-')}" for option in options.keys() - {*self.options}]
        if foreign:
            raise InputError(
                f"{' and '.join(sorted(foreign))} would change nothing: format {self.name} does "
                "not use it; leave it out"
            )
        if not exists(source):
            raise InputError(f"'{source}' does not exist; give the annotation file or its folder")
        with refusing(source, f"not valid {self.name}"):
            result: Source = self._module.read(source, **options)
            return result


def find_format(
    source: Path, name: str | None = None, images: Path | None = None
) -> tuple[Format, str]:
    """Return the format of a source and how it is known; `name` forces one, `images` helps.

    Raises InputError if no format, or more than one, recognises the source.
    """
    if name is not None:
        if name not in FORMATS:
            raise unknown_name("format", name, FORMATS)
        return FORMATS[name], "--as"
    if not exists(source):
        raise InputError(f"'{source}' does not exist; give the annotation file or its folder")
    for general in (False, True):
        group = [kind for kind in FORMATS.values() if kind.is_general == general]
        found = [(kind, why) for kind in group if (why := kind.recognise(source, images))]
        if len(found) > 1:
            reasons = "; ".join(f"{kind.name} ({why})" for kind, why in found)
            raise InputError(f"'{source}' may be of several formats: {reasons}; choose with --as")
        if found:
            return found[0]
    raise _no_format(source)


def _no_format(source: Path) -> InputError:
    """Return the error for a source that no format recognises, with the reason if it is known."""
    if source.suffix.lower() in _ARCHIVES and source.is_file():
        return InputError(f"'{source}' is an archive; unpack it and give the folder")
    for path in json_files(source):
        read_json(path)  # raises InputError if damage is why nothing was recognised
    return InputError(
        f"'{source}' is of no known format; give {_inner_source(source)}, or force a format with "
        f"--as, which also says why it does not fit: {', '.join(FORMATS)}"
    )


def _inner_source(source: Path) -> str:
    """Return what to convert instead of a folder of no format: something in it that has one."""
    inner = sorted(islice(source.iterdir(), _MAX_INNER)) if source.is_dir() else []
    special = [kind for kind in FORMATS.values() if not kind.is_general]
    for path in inner:
        if exists(path) and any(kind.recognise(path) for kind in special):
            return f"'{path}'"
    return "the annotation file or the folder that holds it"


# From the files' names, because `convert --help` must not import what the readers need.
FORMATS = {
    name: Format(name)
    for module in pkgutil.iter_modules(__path__)
    if not module.ispkg and (name := module.name.replace("_", "-"))
}
