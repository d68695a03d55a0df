"""Match predictions with masks by their names, whatever marks programs add to them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from sceneparse.data.pairing import find_images, relative_name
from sceneparse.errors import InputError, first_few

# What programs and datasets add to the name of an image, for its mask or its prediction.
_MARKS = re.compile(
    r"[_\-. ](?:gt(?:fine|coarse)|leftimg8bit|label(?:train)?ids?|trainids?|color|ids?"
    r"|pred(?:ict(?:ion|ed|ions)?)?s?|out(?:put)?|result|mask|label|gt|seg(?:mentation)?)$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Match:
    """The name of an image, its prediction, and its mask."""

    name: str
    prediction: Path
    truth: Path


@dataclass(frozen=True)
class Matches:
    """Matches in the order of names; the names of masks, and the files, that have no partner."""

    matches: tuple[Match, ...]
    without_prediction: tuple[str, ...]
    without_truth: tuple[Path, ...]


def match_files(predictions: Path, masks: Mapping[str, Path]) -> Matches:
    """Match the files of a folder with masks, by relative paths or, if fewer match, by file names.

    Marks at the ends of names such as _pred, _leftImg8bit and _gtFine_labelIds are left out.
    `masks`: name -> file. Raises InputError if nothing matches, or two files match one mask.
    """
    found = {relative_name(predictions, path): path for path in find_images(predictions)[0]}
    if not found:
        raise InputError(f"'{predictions}' holds no label files; give the folder of label PNGs")
    by_path = _matched(found, masks, _core)
    best = by_path if not by_path.without_prediction else _better(by_path, found, masks)
    if not best.matches:
        raise InputError(
            f"no file of '{predictions}' has the name of a mask: there is e.g. "
            f"'{min(found)}', the masks are named e.g. '{min(masks)}'; name each prediction as its "
            "image"
        )
    return best


def _better(by_path: Matches, found: Mapping[str, Path], masks: Mapping[str, Path]) -> Matches:
    """Match by file names alone if that matches more, and no two files share one."""
    try:
        by_name = _matched(found, masks, lambda name: _core(PurePosixPath(name).name))
    except InputError:
        if by_path.matches:
            return by_path
        raise
    return max(by_path, by_name, key=lambda matches: len(matches.matches))


def _core(name: str) -> str:
    """Return a name without marks at its end: "bonn/x_leftImg8bit_pred" -> "bonn/x"."""
    while (shorter := _MARKS.sub("", name)) != name:
        name = shorter
    return name


def _matched(
    found: Mapping[str, Path], masks: Mapping[str, Path], key: Callable[[str], str]
) -> Matches:
    wanted = _by_key(masks, key)
    # Predictions may have encoded names: a%3Ab for a:b, as sceneparse predict writes them.
    files = _by_key(found, lambda name: key(name) if key(name) in wanted else key(unquote(name)))
    matches = [
        Match(core, _only(files[core], found), _only(names, masks))
        for core, names in wanted.items()
        if core in files
    ]
    alone = [name for core, names in wanted.items() if core not in files for name in names]
    extra = [found[name] for core, names in files.items() if core not in wanted for name in names]
    matches.sort(key=lambda match: match.name)
    return Matches(tuple(matches), tuple(sorted(alone)), tuple(sorted(extra)))


def _by_key(names: Mapping[str, Path], key: Callable[[str], str]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for name in names:
        grouped.setdefault(key(name), []).append(name)
    return grouped


def _only(names: Sequence[str], files: Mapping[str, Path]) -> Path:
    if len(names) > 1:
        raise InputError(
            f"{len(names)} files belong to one image: "
            f"{first_few(files[name] for name in sorted(names))}; leave one of them"
        )
    return files[names[0]]
