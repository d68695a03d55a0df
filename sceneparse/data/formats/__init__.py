"""Formats that other tools write. Add one as a module here; it is then a format of `convert`.

A module has a function `read`, which returns the images and classes of a source and how the masks
are drawn. Its parameters are the options that the format takes: `masks: Path` is --masks, and one
with a default is optional. The format's name is the module's, with "-" for "_".
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from sceneparse.errors import InputError, refusing, unknown_name

if TYPE_CHECKING:
    from sceneparse.data.formats.shared.source import Source

# From the files' names, because `convert --help` must not import what the readers need.
FORMATS = tuple(
    module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__) if not module.ispkg
)


def read_source(name: str, files: Mapping[str, Path | None]) -> Source:
    """Read a dataset in the format `name`; `files` are its options, None if not given.

    Raises InputError for an unknown format, for options that are missing or that the format does
    not take, and for content that does not follow the format.
    """
    if name not in FORMATS:
        raise unknown_name("format", name, FORMATS)
    read: Callable[..., Source] = import_module(f"{__name__}.{name.replace('-', '_')}").read
    given = {option: path for option, path in files.items() if path is not None}
    _validate_options(name, read, given)
    main_file = given.get("annotations") or given.get("table") or next(iter(given.values()), name)
    with refusing(main_file, f"not valid {name}"):
        return read(**given)


def _validate_options(name: str, read: Callable[..., Source], given: Mapping[str, Path]) -> None:
    allowed = inspect.signature(read).parameters
    needed = [option for option, p in allowed.items() if p.default is inspect.Parameter.empty]
    missing = [f"--{option}" for option in needed if option not in given]
    if missing:
        raise InputError(f"{name} needs {' and '.join(missing)}")
    foreign = [f"--{option}" for option in given if option not in allowed]
    if foreign:
        options = ", ".join(f"--{option}" for option in allowed)
        raise InputError(f"{name} takes no {' and '.join(foreign)}; its options are {options}")
