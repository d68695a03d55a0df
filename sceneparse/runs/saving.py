"""Save checkpoints so that earlier ones are never lost, whatever happens during the save."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from sceneparse.errors import InputError, reason_of
from sceneparse.runs import atomic, checkpoint
from sceneparse.runs.atomic import remove_folder, write_synced
from sceneparse.runs.checkpoint import MODEL_FILE, TRAINING_FILE, step_folders, step_name

# Room for meta.json and for the file system itself, in bytes.
_SLACK = 1 << 20


def save_checkpoint(
    run: Path,
    *,
    step: int,
    best_step: int,
    weights: Mapping[str, Tensor],
    training: Mapping[str, Any],
    meta: Mapping[str, Any],
) -> Path:
    """Write RUN/checkpoints/step-XXXXXXXX and update the links `last` and `best`; return its path.

    The folder is written under another name, synced to disk and renamed, so that it is complete
    whenever it exists. The last two checkpoints are kept, and that of `best_step` (0: none).
    `weights`: tensors of the network to evaluate. `training`, `meta`: see checkpoint.py.
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
        older = atomic.replace_folder(aside, folder)
        if older.exists():
            remove_folder(older)
        atomic.replace_link(run / "last", folder)
        if best_step:
            atomic.replace_link(run / "best", folders / step_name(best_step))
        atomic.sync_folder(run)
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
    write_synced(folder / MODEL_FILE, lambda path: save_file(tensors, path))
    write_synced(folder / TRAINING_FILE, lambda path: torch.save(dict(training), path))
    checksums = {name: atomic.sha256_of(folder / name) for name in (MODEL_FILE, TRAINING_FILE)}
    text = json.dumps({**meta, "format": checkpoint.FORMAT, "sha256": checksums}, indent=1)
    write_synced(folder / checkpoint.META_FILE, lambda path: path.write_text(text, "utf-8"))
    sums = checkpoint.sum_line(folder)
    write_synced(folder / checkpoint.SUM_FILE, lambda path: path.write_text(sums))


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
        shutil.rmtree(leftover)
    for replaced in folders.glob("step-*.replaced"):
        if replaced.with_suffix("").exists():
            remove_folder(replaced)


def _remove_old(run: Path, step: int) -> None:
    """Remove all checkpoints except the last two and the best one that each of those names.

    Checkpoints after `step` are damaged, since training was resumed from an earlier one.
    """
    folders = step_folders(run)
    last = [folder for folder in folders if folder.name <= step_name(step)][:2]
    kept = {folder.name for folder in last}
    for folder in last:
        with suppress(InputError):  # damaged
            kept.add(step_name(checkpoint.read_own_meta(folder)["best_step"]))
    for folder in folders:
        if folder.name not in kept:
            remove_folder(folder)
