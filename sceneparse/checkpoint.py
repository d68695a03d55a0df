"""Checkpoints: folders that are complete or absent, verified by checksum, free of pickled code.

A run folder holds checkpoints/step-XXXXXXXX and two links, `last` and `best`. A checkpoint holds
model.safetensors (the weights that are evaluated), training.pt (what resuming needs; loads with
weights_only=True) and meta.json (how to rebuild the model, classes, normalisation, checksums).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from sceneparse.errors import InputError, refusing
from sceneparse.files import LARGEST_DESCRIPTION, read_json
from sceneparse.models import create_segmentation_model
from sceneparse.models.classification import Classifier, create_classifier
from sceneparse.models.described import check_description
from sceneparse.models.rebuilding import rebuild
from sceneparse.models.segmentation import SegmentationModel
from sceneparse.tensor_files import read_safetensors, read_tensors

MODEL_FILE, TRAINING_FILE, META_FILE = "model.safetensors", "training.pt", "meta.json"
FORMAT = 2


def save_checkpoint(
    run: Path,
    *,
    step: int,
    weights: Mapping[str, Tensor],
    training: Mapping[str, Any],
    meta: Mapping[str, Any],
    is_best: bool,
    keep: int = 2,
) -> Path:
    """Write RUN/checkpoints/step-XXXXXXXX, point `last` (and `best`) to it, drop all but `keep`.

    The folder is written aside, synced to disk and renamed, so that it is complete whenever it is
    there. Raises InputError where the disk is full or read-only.
    """
    folder = run / "checkpoints" / f"step-{step:08d}"
    aside = folder.with_name(f".{folder.name}-{os.getpid()}")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        _write(aside / MODEL_FILE, lambda path: save_file(tensors, path))
        _write(aside / TRAINING_FILE, lambda path: torch.save(dict(training), path))
        checksums = {name: _sha256(aside / name) for name in (MODEL_FILE, TRAINING_FILE)}
        text = json.dumps({**meta, "format": FORMAT, "step": step, "sha256": checksums}, indent=1)
        _write(aside / META_FILE, lambda path: path.write_text(text, encoding="utf-8"))
        _sync_folder(aside)
        if folder.exists():
            shutil.rmtree(folder)
        aside.rename(folder)
        _sync_folder(folder.parent)
        _point(run / "last", folder)
        if is_best:
            _point(run / "best", folder)
        _prune(run, keep)
    # A full disk is an OSError of ours, a SafetensorError, or a RuntimeError of torch.save.
    except (OSError, SafetensorError, RuntimeError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        free = shutil.disk_usage(run.parent).free // 2**20
        raise InputError(
            f"cannot save the checkpoint {folder}: {reason} ({free} MB free)"
        ) from error
    return folder


def resolve_checkpoint(path: str | Path, prefer: str = "best") -> Path:
    """Find the checkpoint folder that a run folder or checkpoint folder stands for."""
    path = Path(path)
    for candidate in (path, path / prefer, path / "last"):
        if (candidate / META_FILE).is_file():
            return candidate.resolve()
    state = "does not exist"
    if path.exists():
        state = "holds no checkpoint" if path.is_dir() else "is a file"
    raise InputError(
        f"'{path}' {state}; give a run folder, or a checkpoint folder with {META_FILE}"
    )


def read_meta(folder: Path) -> dict[str, Any]:
    """Read and verify a checkpoint: its meta.json, after every file matched its checksum."""
    path = folder / META_FILE
    meta = check_description(read_json(path, LARGEST_DESCRIPTION), path)
    with refusing(path, "damaged or not of a checkpoint"):
        checksums, written = dict(meta["sha256"]), meta["format"]
    if written != FORMAT:
        raise InputError(f"{folder}: checkpoint format {written}, this version reads {FORMAT}")
    for name in (MODEL_FILE, TRAINING_FILE):
        try:
            intact = _sha256(folder / name) == checksums.get(name)
        except OSError as error:
            raise InputError(f"{folder / name}: cannot be read: {error.strerror}") from error
        if not intact:
            raise InputError(f"{folder / name} is damaged: its checksum differs from {META_FILE}")
    return meta


def read_training_state(folder: Path) -> dict[str, Any]:
    """Read what resuming needs; only tensors and plain values load."""
    state: dict[str, Any] = read_tensors(folder / TRAINING_FILE)
    return state


def load_model(path: str | Path) -> SegmentationModel | Classifier:
    """Rebuild the model of a run folder (its best checkpoint) or checkpoint folder, in eval mode.

    Its `classes`, `mean`, `std` and, of segmentation, `colors` are those it was trained with, its
    `meta` is all the checkpoint knows. Raises InputError where anything is damaged or missing.
    """
    folder = resolve_checkpoint(path)
    meta = read_meta(folder)
    arguments, weights = meta["model"], read_safetensors(folder / MODEL_FILE)
    model: SegmentationModel | Classifier
    if _is_classifier(meta):
        model = rebuild(create_classifier, arguments, weights, str(folder))
    else:
        model = rebuild(create_segmentation_model, arguments, weights, str(folder))
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


def _write(path: Path, write: Callable[[Path], object]) -> None:
    write(path)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _point(link: Path, folder: Path) -> None:
    """Make `link` lead to `folder`; it leads to the old or the new one at any moment."""
    aside = link.with_name(f".{link.name}-{os.getpid()}")
    aside.unlink(missing_ok=True)
    aside.symlink_to(folder.relative_to(link.parent), target_is_directory=True)
    aside.replace(link)


def _prune(run: Path, keep: int) -> None:
    kept = {(run / name).resolve() for name in ("last", "best") if (run / name).exists()}
    folders = sorted((run / "checkpoints").glob("step-" + "[0-9]" * 8))
    kept.update(folder.resolve() for folder in folders[-keep:])
    for folder in folders:
        if folder.resolve() not in kept:
            shutil.rmtree(folder)
    for leftover in (run / "checkpoints").glob(".step-*"):
        shutil.rmtree(leftover)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
