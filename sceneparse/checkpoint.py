"""Checkpoints: folders that are complete or absent, verified by checksum, free of pickled code.

A run folder holds checkpoints/step-XXXXXXXX and two links, `last` and `best`. A checkpoint holds
model.safetensors (the weights that are evaluated), training.pt (what resuming needs; loads with
weights_only=True), meta.json (how to rebuild the model, classes, normalisation, checksums of both)
and meta.json.sha256. The links are for people: nothing here depends on them.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sceneparse.durable import (
    remove_folder,
    replace_folder,
    replace_link,
    sha256_of,
    sync_folder,
    write_synced,
)
from sceneparse.errors import InputError, first_few
from sceneparse.models import create_segmentation_model
from sceneparse.models.classification import Classifier, create_classifier
from sceneparse.models.pretrained import load_strict
from sceneparse.models.segmentation import SegmentationModel

MODEL_FILE, TRAINING_FILE, META_FILE = "model.safetensors", "training.pt", "meta.json"
SUM_FILE = f"{META_FILE}.sha256"
FORMAT = 3
# Room for meta.json and for what the file system needs itself.
_SLACK = 1 << 20


class Saved(NamedTuple):
    """A checkpoint whose files all matched their checksums."""

    folder: Path
    meta: dict[str, Any]


def save_checkpoint(
    run: Path,
    *,
    step: int,
    best_step: int,
    weights: Mapping[str, Tensor],
    training: Mapping[str, Any],
    meta: Mapping[str, Any],
    keep: int = 2,
) -> Path:
    """Write RUN/checkpoints/step-XXXXXXXX, point `last` and `best` to it and to the best one.

    The folder is written aside, synced to disk and renamed, so that it is complete whenever it is
    there. The last `keep` stay, and the one of `best_step` (0: none is known to be the best).
    Raises InputError where the disk is full or read-only; what was saved before is intact then.
    """
    folders = run / "checkpoints"
    folder, aside = folders / _name(step), folders / f".{_name(step)}"
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    needed = _bytes_of(tensors) + _bytes_of(training) + _SLACK
    try:
        folders.mkdir(parents=True, exist_ok=True)
        _sweep(folders)
        if needed > shutil.disk_usage(folders).free:
            raise OSError("not enough room on the disk")
        _write(aside, tensors, training, {**meta, "step": step, "best_step": best_step})
        older = replace_folder(aside, folder)
        if older.exists():
            remove_folder(older)
        replace_link(run / "last", folder)
        if best_step:
            replace_link(run / "best", folders / _name(best_step))
        sync_folder(run)
        _prune(run, step, keep)
    # A full disk is an OSError of ours, a SafetensorError, or a RuntimeError of torch.save.
    except (OSError, SafetensorError, RuntimeError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise InputError(
            f"cannot save the checkpoint {folder}: {reason} ({needed:,} bytes needed, "
            f"{_free_bytes(run):,} free); make room, then go on with --resume"
        ) from error
    return folder


def newest_intact(run: Path, say: Callable[[str], None]) -> Saved | None:
    """Find the newest checkpoint of a run that is intact, and say which ones are not.

    None: the run has no checkpoint yet. Raises InputError where it has some, but all are damaged.
    """
    damages = []
    for folder in _folders_of(run):
        try:
            saved = Saved(folder, _verified_meta(folder))
        except InputError as error:
            damages.append(str(error))
            continue
        for damage in damages:
            say(f"{damage}; falling back to {folder}")
        return saved
    if damages:
        raise InputError(
            f"'{run}' holds no intact checkpoint: {first_few(damages)}; start anew with --overwrite"
        )
    return None


def resolve_checkpoint(path: str | Path) -> Path:
    """Find the checkpoint folder that a path stands for: itself, or the best of a run folder.

    Raises InputError, also where a run's newest checkpoint cannot say which is the best: scores
    are of the checkpoint that was asked for or of none.
    """
    path = Path(path)
    if (path / META_FILE).is_file():
        return path.resolve()
    for newest in _folders_of(path):
        best_step = _hinting(newest, _read_meta)["best_step"]
        return newest.with_name(_name(best_step)) if best_step else newest
    state = "does not exist"
    if path.exists():
        state = "holds no checkpoint" if path.is_dir() else "is a file"
    raise InputError(
        f"'{path}' {state}; give a run folder, or a checkpoint folder with {META_FILE}"
    )


def read_meta(folder: Path) -> dict[str, Any]:
    """Read and verify a checkpoint: its meta.json, after every file matched its checksum.

    Raises InputError that names what is damaged, and the intact checkpoints beside it.
    """
    return _hinting(folder, _verified_meta)


def read_training_state(folder: Path) -> dict[str, Any]:
    """Read what resuming needs; only tensors and plain values load."""
    path = folder / TRAINING_FILE
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError) as error:
        raise InputError(
            f"{path} is damaged or holds more than tensors and plain values"
        ) from error
    return state


def load_model(path: str | Path) -> SegmentationModel | Classifier:
    """Rebuild the model of a run folder (its best checkpoint) or checkpoint folder, in eval mode.

    Its `classes`, `mean`, `std` and, of segmentation, `colors` are those it was trained with, its
    `meta` is all the checkpoint knows. Raises InputError where anything is damaged or missing.
    """
    folder = resolve_checkpoint(path)
    meta = read_meta(folder)
    create = create_classifier if _is_classifier(meta) else create_segmentation_model
    model: SegmentationModel | Classifier = create(**meta["model"])
    load_strict(model, load_file(folder / MODEL_FILE), str(folder / MODEL_FILE))
    model.meta = meta
    return model.eval()


def load_segmentation_model(path: str | Path) -> SegmentationModel:
    """Rebuild a model as `load_model`; raises InputError where it is a classifier."""
    model = load_model(path)
    if not isinstance(model, SegmentationModel):
        raise InputError(
            f"'{path}' holds a classifier of tools/train_cls.py; give a run of tools/train_seg.py"
        )
    return model


def _is_classifier(meta: Mapping[str, Any]) -> bool:
    return meta.get("task") == "classification"


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _folders_of(run: Path) -> list[Path]:
    """List the checkpoints of a run, the newest first; one that was to be replaced is older."""
    folders = (run / "checkpoints").glob("step-*")
    return sorted(folders, key=lambda folder: (folder.stem, not folder.suffix), reverse=True)


def _write(
    folder: Path, tensors: dict[str, Tensor], training: Mapping[str, Any], meta: dict[str, Any]
) -> None:
    folder.mkdir()
    write_synced(folder / MODEL_FILE, lambda path: save_file(tensors, path))
    write_synced(folder / TRAINING_FILE, lambda path: torch.save(dict(training), path))
    checksums = {name: sha256_of(folder / name) for name in (MODEL_FILE, TRAINING_FILE)}
    text = json.dumps({**meta, "format": FORMAT, "sha256": checksums}, indent=1)
    write_synced(folder / META_FILE, lambda path: path.write_text(text, encoding="utf-8"))
    write_synced(folder / SUM_FILE, lambda path: path.write_text(_sum_line(folder)))


def _sum_line(folder: Path) -> str:
    """Return the line that `sha256sum -c` reads."""
    return f"{sha256_of(folder / META_FILE)}  {META_FILE}\n"


def _read_meta(folder: Path) -> dict[str, Any]:
    """Read meta.json, after it matched its own checksum."""
    try:
        intact = (folder / SUM_FILE).read_bytes() == _sum_line(folder).encode()
        meta: dict[str, Any] = json.loads((folder / META_FILE).read_text(encoding="utf-8"))
        written, _, _ = meta["format"], dict(meta["sha256"]), _name(meta["best_step"])
    except FileNotFoundError as error:
        raise InputError(
            f"{folder} lacks {Path(error.filename).name}: it is incomplete or of another version"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{folder / META_FILE} is damaged or not of a checkpoint") from error
    if not intact:
        raise InputError(f"{folder / META_FILE} is damaged: its checksum differs from {SUM_FILE}")
    if written != FORMAT:
        raise InputError(f"{folder}: checkpoint format {written}, this version reads {FORMAT}")
    return meta


def _verified_meta(folder: Path) -> dict[str, Any]:
    """Read meta.json, after all files matched their checksums."""
    meta = _read_meta(folder)
    for name in (MODEL_FILE, TRAINING_FILE):
        try:
            intact = sha256_of(folder / name) == meta["sha256"].get(name)
        except OSError as error:
            raise InputError(f"{folder / name}: cannot be read: {error.strerror}") from error
        if not intact:
            raise InputError(f"{folder / name} is damaged: its checksum differs from {META_FILE}")
    return meta


def _hinting(folder: Path, read: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Read a checkpoint; where it is damaged, name the intact ones of the same run."""
    try:
        return read(folder)
    except InputError as error:
        others = [other for other in folder.parent.glob("step-*") if _is_intact(other)]
        if not others:
            raise
        raise InputError(f"{error}; intact beside it: {first_few(sorted(others))}") from error


def _is_intact(folder: Path) -> bool:
    try:
        _verified_meta(folder)
    except InputError:
        return False
    return True


def _bytes_of(tree: object) -> int:
    """Add up the tensors in nested dicts and lists."""
    if isinstance(tree, Tensor):
        return tree.nbytes
    if isinstance(tree, Mapping):
        return sum(_bytes_of(value) for value in tree.values())
    return sum(map(_bytes_of, tree)) if isinstance(tree, list | tuple) else 0


def _free_bytes(path: Path) -> int:
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(existing).free


def _sweep(folders: Path) -> None:
    """Remove what a killed process was writing, replacing or removing."""
    for leftover in folders.glob(".step-*"):
        shutil.rmtree(leftover)
    for replaced in folders.glob("step-*.replaced"):
        if replaced.with_suffix("").exists():
            remove_folder(replaced)


def _prune(run: Path, step: int, keep: int) -> None:
    """Keep the last ones, and what each of them knows as the best.

    A step after the present one is damaged, since training went on from an earlier one.
    """
    folders = _folders_of(run)
    last = [folder for folder in folders if folder.name <= _name(step)][:keep]
    kept = {folder.name for folder in last}.union(*map(_best_known, last))
    for folder in folders:
        if folder.name not in kept:
            remove_folder(folder)


def _best_known(folder: Path) -> set[str]:
    try:
        return {_name(_read_meta(folder)["best_step"])}
    except InputError:
        return set()
