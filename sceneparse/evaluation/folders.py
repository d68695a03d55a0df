"""Folders of results in a run: named after what was evaluated, and found for comparisons."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sceneparse.data.tables import TABLE_SUFFIXES
from sceneparse.errors import InputError, first_few
from sceneparse.evaluation.result import COUNTS_FILE
from sceneparse.files import MAX_DESCRIPTION, read_json
from sceneparse.inference.protocols import Protocol
from sceneparse.runtime.shell import command_line

# Class names in the name of a folder, and their letters; if there are more, they are counted.
_MAX_NAMED, _MAX_LETTERS = 3, 150


def default_folder(
    checkpoint: Path, usual: Mapping[str, Any], settings: Mapping[str, Any], variant: Sequence[str]
) -> Path:
    """Return the folder for results: in the run folder, named after what differs from the usual.

    The usual settings have RUN/eval_SPLIT. `variant`: a word for each difference. Two evaluations
    with equal names and different settings do not share a folder: one has a code after its name.
    """
    place, last = place_of(checkpoint)
    base = f"eval_{split_name(settings['split'])}{last}"
    name = "_".join([base, *variant])
    if settings == usual:
        return place / name
    # A network of another program has no usual split.
    reserved = f"eval_{split_name(usual['split'])}{last}" if usual["split"] else None
    if name != reserved and _settings_in(place / name) in ({}, settings):
        return place / name
    code = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return place / f"{name}_{code[:6]}"


def place_of(checkpoint: Path) -> tuple[Path, str]:
    """Return the folder that results go to, and how names end, unless it is the run's best."""
    if checkpoint.is_file():  # an exported file, or RUN/last
        return checkpoint.parent, f"_{checkpoint.name.replace('.', '_')}"
    if (checkpoint / "meta.json").is_file():  # a checkpoint in a run folder
        parent = checkpoint.parent
        run_folder = parent.parent if parent.name == "checkpoints" else parent
        return run_folder, f"_{checkpoint.name}"
    return checkpoint, ""


def _settings_in(folder: Path) -> dict[str, Any]:
    """Return the settings of the results in a folder; empty if there are none or they are older."""
    with suppress(InputError):
        written = read_json(folder / "eval.json", MAX_DESCRIPTION)
        if isinstance(written, dict) and isinstance(written.get("settings"), dict):
            return dict(written["settings"])
    return {}


def split_name(split: str) -> str:
    """Return the name of a split, or of a list file without its folders and suffix."""
    path = Path(split.replace("\\", "/"))
    return path.stem if path.suffix.lower() in TABLE_SUFFIXES else path.name


def protocol_variant(protocol: Protocol, usual: Protocol, trained: str) -> list[str]:
    """Return a word for each difference of a protocol from the one that the model trained with.

    `usual`: the protocol of that name with the settings it has by default.
    """
    words = [protocol.name] if protocol.name != trained else []
    if protocol.crop is not None and protocol.crop != usual.crop:
        words.append(f"{protocol.crop[0]}x{protocol.crop[1]}")
    if protocol.base != usual.base:
        words.append(f"base{protocol.base}")
    if protocol.scales != usual.scales:
        words.append("scales" + "-".join(f"{scale:g}" for scale in protocol.scales))
    if protocol.mirror != usual.mirror:
        words.append("mirror" if protocol.mirror else "no-mirror")
    return words + ([protocol.weighting] if protocol.weighting != usual.weighting else [])


def excluded_variant(names: Sequence[str]) -> list[str]:
    """Return a word for excluded classes."""
    if len(names) > _MAX_NAMED or sum(map(len, names)) > _MAX_LETTERS:
        return [f"without_{len(names)}_classes"]
    safe = ["".join(c if c.isalnum() else "-" for c in name) for name in names]
    return ["without_" + "_".join(safe)] if safe else []


def find_scores(folders: Sequence[Path], split: str | None) -> list[Path]:
    """Return the folder of scores in each run; a folder that holds scores stands for itself.

    If runs hold several, the folders that all of them hold come first, and plain names before
    longer ones (eval_val before eval_val_slide). Raises InputError if a run has none, or several
    are left.
    """
    held = {folder: _evaluations_in(folder, split) for folder in folders}
    names = [{path.name for path in found} for run, found in held.items() if found != [run]]
    common = set[str].intersection(*names) if names else set()
    return [_choose(folder, held[folder], common) for folder in folders]


def _evaluations_in(folder: Path, split: str | None) -> list[Path]:
    if (folder / COUNTS_FILE).is_file():
        return [folder]
    if not folder.exists():
        raise InputError(f"'{folder}' does not exist; give a run folder or that of an evaluation")
    found = sorted(path.parent for path in folder.glob(f"eval_*/{COUNTS_FILE}"))
    if not found:
        command = command_line(["sceneparse", "evaluate", str(folder)])
        raise InputError(f"'{folder}' holds no evaluation; run `{command}` first")
    if split is None:
        return found
    wanted = folder / f"eval_{split_name(split)}"
    if wanted not in found:
        names = first_few(path.name for path in found)
        raise InputError(f"'{folder}' holds no {wanted.name}, only {names}; evaluate that split")
    return [wanted]


def _choose(folder: Path, found: Sequence[Path], common: set[str]) -> Path:
    shared = [path for path in found if path.name in common] or found
    plain = [
        path
        for path in shared
        if not any(path.name.startswith(f"{other.name}_") for other in shared)
    ]
    if len(plain) > 1:
        names = first_few(path.name for path in found)
        raise InputError(
            f"'{folder}' holds several evaluations ({names}); choose with --split, or give the "
            "folders themselves"
        )
    return plain[0]
