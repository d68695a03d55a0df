"""Read checkpoints, which are verified by checksum and free of pickled code; saving.py writes them.

A run folder holds checkpoints/step-XXXXXXXX and, for people, the links `last` and `best`. A
checkpoint holds model.safetensors (the weights that are evaluated), training.pt (for resuming),
meta.json (how to rebuild the model, classes, checksums of both) and meta.json.sha256. A reader
compares the checksums of the files that it reads: evaluation needs no training.pt.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, cast

from sceneparse.errors import InputError, first_few, refusing
from sceneparse.files import LARGEST_DESCRIPTION, read_bytes, read_json
from sceneparse.models import create_segmentation_model
from sceneparse.models.classification import Classifier, create_classifier
from sceneparse.models.description import check_description
from sceneparse.models.segmentation import SegmentationModel
from sceneparse.models.tensor_files import read_safetensors, read_tensors
from sceneparse.models.weights import rebuild
from sceneparse.runs.atomic import sha256_of

logger = logging.getLogger(__name__)

MODEL_FILE, TRAINING_FILE, META_FILE = "model.safetensors", "training.pt", "meta.json"
SUM_FILE = f"{META_FILE}.sha256"
FORMAT = 3
_LONGEST_SUM = 1000


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
            saved = Saved(folder, _verified_meta(folder, [MODEL_FILE, TRAINING_FILE]))
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


def resolve_checkpoint(path: str | Path) -> Path:
    """Find the checkpoint folder that a path stands for: itself, or the best of a run folder.

    Raises InputError, also if a run's newest checkpoint is damaged and the best one is unknown.
    """
    path = Path(path)
    if (path / META_FILE).is_file():
        return path.resolve()
    for newest in step_folders(path):
        best_step = read_meta(newest, ())["best_step"]
        return newest.with_name(step_name(best_step)) if best_step else newest
    state = "does not exist"
    if path.exists():
        state = "holds no checkpoint" if path.is_dir() else "is a file"
    raise InputError(
        f"'{path}' {state}; give a run folder, or a checkpoint folder with {META_FILE}"
    )


def read_meta(folder: Path, files: Sequence[str] = (MODEL_FILE, TRAINING_FILE)) -> dict[str, Any]:
    """Read the meta.json of a checkpoint, after it and `files` matched their checksums.

    Raises InputError that names the damaged file, and the checkpoints beside it that are intact.
    """
    try:
        return _verified_meta(folder, files)
    except InputError as error:
        intact = []
        for other in sorted(folder.parent.glob("step-*")):
            with suppress(InputError):
                _verified_meta(other, [MODEL_FILE])
                intact.append(other)
        if not intact:
            raise
        raise InputError(f"{error}; intact beside it: {first_few(intact)}") from error


def read_training_state(folder: Path) -> dict[str, Any]:
    """Read training.pt; only tensors and plain values load."""
    return cast("dict[str, Any]", read_tensors(folder / TRAINING_FILE))


def load_model(path: str | Path) -> SegmentationModel | Classifier:
    """Rebuild the model of a run folder (its best checkpoint) or checkpoint folder, in eval mode.

    `classes`, `mean`, `std` and, for segmentation, `colors` are those of its training; `meta` is
    the whole meta.json. Raises InputError if a file is damaged or missing.
    """
    folder = resolve_checkpoint(path)
    meta = read_meta(folder, [MODEL_FILE])
    is_classifier = meta.get("task") == "classification"
    create: Callable[..., SegmentationModel | Classifier]
    create = create_classifier if is_classifier else create_segmentation_model
    model: SegmentationModel | Classifier = rebuild(
        create, meta["model"], read_safetensors(folder / MODEL_FILE), str(folder)
    )
    model.meta = meta
    return model.eval()


def load_segmentation_model(path: str | Path) -> SegmentationModel:
    """Rebuild a model as `load_model` does; raises InputError if it is a classifier."""
    model = load_model(path)
    if not isinstance(model, SegmentationModel):
        raise InputError(
            f"'{path}' holds a classifier; give the run folder of a segmentation model"
        )
    return model


def step_name(step: int) -> str:
    """Return the name of a checkpoint folder."""
    return f"step-{step:08d}"


def step_folders(run: Path) -> list[Path]:
    """List the checkpoints of a run, newest first; of the same step, a replaced one is older."""
    folders = (run / "checkpoints").glob("step-*")
    return sorted(folders, key=lambda folder: (folder.stem, not folder.suffix), reverse=True)


def sum_line(folder: Path) -> str:
    """Return the text of meta.json.sha256, which `sha256sum -c` reads."""
    return f"{sha256_of(folder / META_FILE)}  {META_FILE}\n"


def read_own_meta(folder: Path) -> dict[str, Any]:
    """Read meta.json, after it matched its own checksum."""
    path = folder / META_FILE
    for name in (META_FILE, SUM_FILE):
        if not (folder / name).exists():
            raise InputError(f"{folder} lacks {name}: it is incomplete or of another version")
    with refusing(path, "damaged or not of a checkpoint"):
        if read_bytes(folder / SUM_FILE, _LONGEST_SUM) != sum_line(folder).encode():
            raise InputError(f"{path} is damaged: its checksum differs from {SUM_FILE}")
        meta = check_description(read_json(path, LARGEST_DESCRIPTION), path)
        written, _, _ = meta["format"], dict(meta["sha256"]), step_name(meta["best_step"])
    if written != FORMAT:
        raise InputError(f"{folder}: checkpoint format {written}, this version reads {FORMAT}")
    return meta


def _verified_meta(folder: Path, files: Sequence[str]) -> dict[str, Any]:
    """Read meta.json, after it and `files` matched their checksums."""
    meta = read_own_meta(folder)
    for name in files:
        try:
            intact = sha256_of(folder / name) == meta["sha256"].get(name)
        except OSError as error:
            raise InputError(f"{folder / name}: cannot be read: {error.strerror}") from error
        if not intact:
            raise InputError(f"{folder / name} is damaged: its checksum differs from {META_FILE}")
    return meta
