"""Checkpoints: folders that are complete or absent, verified by checksum, free of pickled code.

A run folder holds checkpoints/step-XXXXXXXX and, for people, the files `last` and `best`, which
name one of them in a line: unlike links, they survive copies and work on every system. A checkpoint
holds model.safetensors (the weights that are evaluated), training.pt (for resuming), meta.json (how
to rebuild the model, classes, checksums of both) and meta.json.sha256. A reader compares the
checksums of the files that it reads: evaluation needs no training.pt.
"""

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from sceneparse.errors import InputError, first_few, reason_of
from sceneparse.files import sha256_of
from sceneparse.models import create_segmentation_model
from sceneparse.models.classification import Classifier, create_classifier
from sceneparse.models.segmentation import SegmentationModel
from sceneparse.models.stored import (
    FORMAT,
    META_FILE,
    MODEL_FILE,
    SUM_FILE,
    TRAINING_FILE,
    holds_one_model,
    read_stored,
    resolve_checkpoint,
    step_folders,
    step_name,
    sum_line,
    verified_meta,
)
from sceneparse.models.tensor_files import read_tensors
from sceneparse.models.weights import rebuild
from sceneparse.runs import atomic
from sceneparse.runs.calibration import calibration_of

logger = logging.getLogger(__name__)

# Room for meta.json and for the file system itself, in bytes.
_SLACK = 1 << 20


class Saved(NamedTuple):
    """A checkpoint whose files match their checksums."""

    folder: Path
    meta: dict[str, Any]


def newest_intact(run: Path) -> Saved | None:
    """Find the newest checkpoint of a run whose files are all intact, to resume from it.

    Logs a warning for every newer one that is damaged. None: the run has no checkpoint yet. Raises
    InputError if all of them are damaged.
    """
    damages = []
    for folder in step_folders(run):
        try:
            saved = Saved(folder, verified_meta(folder, [MODEL_FILE, TRAINING_FILE]))
        except InputError as error:
            damages.append(str(error))
            continue
        for damage in damages:
            logger.warning(f"{damage}; falling back to {folder}")
        return saved
    if damages:
        raise InputError(
            f"'{run}' holds no intact checkpoint: {first_few(damages)}; start anew with --overwrite"
        )
    return None


def read_training_state(folder: Path) -> dict[str, Any]:
    """Read training.pt; only tensors and plain values load."""
    return cast("dict[str, Any]", read_tensors(folder / TRAINING_FILE))


def load_model(path: str | Path) -> SegmentationModel | Classifier:
    """Load the model of a run (its best checkpoint), a checkpoint or a file, in evaluation mode.

    A file is a .safetensors file of `sceneparse export` or `sceneparse weights`, or a folder of
    `save_pretrained`. The model has the `classes`, `mean`, `std` and, for segmentation, `colors` of
    its training; `meta` is its whole description, with the calibration of the checkpoint if there
    is one. Raises InputError if a file is damaged or missing.
    """
    path = Path(path).expanduser()
    is_model = path.suffix == ".safetensors" or holds_one_model(path)
    source, weights, meta = read_stored(path if is_model else resolve_checkpoint(path))
    if not meta:
        raise InputError(f"'{source}' holds weights without a description of their model")
    create: Callable[..., SegmentationModel | Classifier] = create_segmentation_model
    if meta.get("task") == "classification":
        create = create_classifier
    model = rebuild(create, meta["model"], weights, source)
    model.meta = {**meta, **calibration_of(Path(source), meta)}
    return model.eval()


def load_segmentation_model(path: str | Path) -> SegmentationModel:
    """Rebuild a model as `load_model` does; raises InputError if it is a classifier."""
    model = load_model(path)
    if not isinstance(model, SegmentationModel):
        raise InputError(
            f"'{path}' holds a classifier; give the run folder of a segmentation model"
        )
    return model


def save_checkpoint(
    run: Path,
    *,
    step: int,
    best_step: int,
    weights: Mapping[str, Tensor],
    training: Mapping[str, Any],
    meta: Mapping[str, Any],
) -> Path:
    """Write RUN/checkpoints/step-XXXXXXXX and update `last` and `best`; return its path.

    The folder is written under another name, synced to disk and renamed, so that it is complete
    whenever it exists. The last two checkpoints are kept, and that of `best_step` (0: none).
    `weights`: tensors of the network to evaluate. `training`, `meta`: the other two files.
    Raises InputError if the disk is full or read-only; earlier checkpoints are intact then.
    """
    folders = run / "checkpoints"
    folder, aside = folders / step_name(step), folders / f".{step_name(step)}"
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    needed = _bytes_of(tensors) + _bytes_of(training) + _SLACK
    try:
        folders.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folders)
        if needed > shutil.disk_usage(folders).free:
            raise OSError("not enough room on the disk")
        _write(aside, tensors, training, {**meta, "step": step, "best_step": best_step})
        _remove_unneeded(atomic.replace_folder(aside, folder))
        atomic.replace_pointer(run / "last", folder)
        if best_step:
            atomic.replace_pointer(run / "best", folders / step_name(best_step))
        _remove_old(run, step)
    # A full disk raises OSError, SafetensorError, or a RuntimeError from torch.save.
    except (OSError, SafetensorError, RuntimeError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        existing = next(path for path in folders.absolute().parents if path.exists())
        raise InputError(
            f"cannot save the checkpoint {folder}: {reason_of(error)} ({needed:,} bytes needed, "
            f"{shutil.disk_usage(existing).free:,} free); make room, then resume with --resume"
        ) from error
    return folder


def _write(
    folder: Path, tensors: dict[str, Tensor], training: Mapping[str, Any], meta: dict[str, Any]
) -> None:
    folder.mkdir()
    atomic.write_synced(folder / MODEL_FILE, lambda path: save_file(tensors, path))
    atomic.write_synced(folder / TRAINING_FILE, lambda path: torch.save(dict(training), path))
    checksums = {name: sha256_of(folder / name) for name in (MODEL_FILE, TRAINING_FILE)}
    text = json.dumps({**meta, "format": FORMAT, "sha256": checksums}, indent=1)
    atomic.write_text(folder / META_FILE, text)
    atomic.write_text(folder / SUM_FILE, sum_line(folder))


def _bytes_of(tree: object) -> int:
    """Return the total size of the tensors in nested dicts and lists."""
    if isinstance(tree, Tensor):
        return tree.nbytes
    if isinstance(tree, Mapping):
        return sum(_bytes_of(value) for value in tree.values())
    return sum(map(_bytes_of, tree)) if isinstance(tree, list | tuple) else 0


def _remove_leftovers(folders: Path) -> None:
    """Remove the folders that a killed process was writing, replacing or removing."""
    for leftover in folders.glob(".step-*"):
        with suppress(PermissionError):  # as in _remove_unneeded
            shutil.rmtree(leftover)
    for replaced in folders.glob("step-*.replaced"):
        if replaced.with_suffix("").exists():
            _remove_unneeded(replaced)


def _remove_old(run: Path, step: int) -> None:
    """Remove all checkpoints except the last two and the best one that each of those names.

    Checkpoints after `step` are damaged, since training was resumed from an earlier one.
    """
    folders = step_folders(run)
    last = [folder for folder in folders if folder.name <= step_name(step)][:2]
    kept = {folder.name for folder in last}
    for folder in last:
        with suppress(InputError):  # damaged
            kept.add(step_name(verified_meta(folder)["best_step"]))
    for folder in folders:
        if folder.name not in kept:
            _remove_unneeded(folder)


def _remove_unneeded(folder: Path) -> None:
    """Remove a folder, or log that another program uses its files; the next save tries again."""
    try:
        atomic.remove_folder(folder)
    except PermissionError as error:  # of Windows; nothing is lost by it
        logger.warning(f"cannot remove {folder}, which is no longer needed: {reason_of(error)}")
