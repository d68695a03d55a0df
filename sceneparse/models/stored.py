"""Read stored models: weights and their description, from a run, a checkpoint, a folder or a file.

A checkpoint folder holds model.safetensors, training.pt, meta.json and meta.json.sha256; its files
are compared with their checksums before they are read.
"""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import safe_open

from sceneparse.errors import InputError, first_few, refusing
from sceneparse.files import MAX_DESCRIPTION, read_bytes, read_json, read_text, sha256_of
from sceneparse.models.description import check_description
from sceneparse.models.weights import State, read_weights

MODEL_FILE, TRAINING_FILE, META_FILE = "model.safetensors", "training.pt", "meta.json"
CONFIG_FILE = "config.json"
SUM_FILE = f"{META_FILE}.sha256"
FORMAT = 3
# Key of the model's description in the metadata of a file.
META_KEY = "sceneparse"
# Files of a run that name a checkpoint, such as "checkpoints/step-00000040".
POINTERS = ("last", "best")
_MAX_SUM_BYTES = _MAX_POINTER_BYTES = 1000


class Stored(NamedTuple):
    """Named tensors, where they were read, and the description of their model; {}: unknown."""

    source: str
    weights: State
    meta: dict[str, Any]


def read_stored(path: str | Path) -> Stored:
    """Read a run (its best checkpoint), a checkpoint, a folder of `save_pretrained`, or a file.

    Raises InputError if it is missing, damaged, or a file of another kind.
    """
    place = _locate(path)
    if place.is_dir():
        meta = read_meta(place, [MODEL_FILE])
        return Stored(str(place), read_weights(place / MODEL_FILE), meta)
    return Stored(str(place), read_weights(place), _description_of(place))


def read_description(path: str | Path) -> tuple[str, dict[str, Any]]:
    """Return the place and the description of a stored model without reading its weights.

    As `read_stored` does; {}: it has no description.
    """
    place = _locate(path)
    if not place.exists():
        raise InputError(f"weights file '{place}' does not exist")
    return str(place), read_meta(place, ()) if place.is_dir() else _description_of(place)


def _locate(path: str | Path) -> Path:
    """Return the checkpoint folder or the file of weights that a path stands for."""
    path = Path(path).expanduser()
    if path.suffix in {".onnx", ".pt2"}:
        raise InputError(f"'{path}' is a graph, not weights; give its run or a .safetensors file")
    folder = follow_pointer(path.parent if path.name == MODEL_FILE else path)
    if holds_one_model(path):
        path = path / MODEL_FILE
    if (folder / META_FILE).is_file() or path.is_dir() or not path.suffix:
        return resolve_checkpoint(folder)
    return path


def holds_one_model(folder: Path) -> bool:
    """Return whether a folder is one of `save_pretrained` or the hub, and no run or checkpoint.

    A run folder can hold an exported model.safetensors beside its checkpoints.
    """
    is_run = (folder / META_FILE).is_file() or (folder / "checkpoints").is_dir()
    return (folder / MODEL_FILE).is_file() and not is_run


def is_classifier(path: str | Path) -> bool:
    """Return whether a run, checkpoint or file holds an image classifier; False if unreadable."""
    with suppress(InputError):
        return read_description(path)[1].get("task") == "classification"
    return False


def _description_of(path: Path) -> dict[str, Any]:
    """Return the description in a .safetensors file or in config.json beside it; {}: none."""
    if path.suffix != ".safetensors":
        return {}
    with refusing(path, "damaged or not a weights file"), safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(META_KEY)
    if text is not None:
        with refusing(path, "does not describe a model of ours"):
            return check_description(json.loads(text[:MAX_DESCRIPTION]), path)
    config = path.with_name(CONFIG_FILE)
    content = read_json(config, MAX_DESCRIPTION) if config.is_file() else None
    # Other libraries write a config.json too.
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        return {}
    return check_description(content, config)


def follow_pointer(path: Path) -> Path:
    """Return the checkpoint folder that RUN/last or RUN/best names; return other paths as they are.

    In runs of earlier versions they are links to it. Raises InputError if the file names no
    checkpoint of its run.
    """
    if path.name not in POINTERS or not path.is_file():
        return path
    name = read_text(path, _MAX_POINTER_BYTES).strip()
    remedy = f"give the run folder '{path.parent}', or one of its checkpoints"
    if not re.fullmatch("checkpoints/step-[0-9]{8,}", name):
        raise InputError(
            f"'{path}' holds '{name[:80]}', but must name a checkpoint of its run, such as "
            f"checkpoints/{step_name(1)}; {remedy}"
        )
    folder = path.parent / name
    if not folder.is_dir():
        raise InputError(f"'{path}' names {name}, which does not exist; {remedy}")
    return folder.resolve()


def resolve_checkpoint(path: str | Path) -> Path:
    """Find the checkpoint folder that a path stands for: itself, or the best of a run folder.

    RUN/last and RUN/best stand for what they name. Raises InputError, also if a run's newest
    checkpoint is damaged and the best one is unknown.
    """
    path = follow_pointer(Path(path))
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
        return verified_meta(folder, files)
    except InputError as error:
        intact = []
        for other in sorted(folder.parent.glob("step-*")):
            with suppress(InputError):
                verified_meta(other, [MODEL_FILE])
                intact.append(other)
        if not intact:
            raise
        raise InputError(f"{error}; intact beside it: {first_few(intact)}") from error


def step_name(step: int) -> str:
    """Return the name of a checkpoint folder."""
    return f"step-{step:08d}"


def step_folders(run: Path) -> list[Path]:
    """List the checkpoints of a run, newest first; of the same step, a replaced one is older.

    Copies and archives that somebody made beside them have other names.
    """
    found = (run / "checkpoints").glob("step-*")
    folders = (path for path in found if re.fullmatch(r"step-\d{8,}(\.replaced)?", path.name))
    return sorted(folders, key=lambda folder: (folder.stem, not folder.suffix), reverse=True)


def sum_line(folder: Path) -> str:
    """Return the text of meta.json.sha256, which `sha256sum -c` reads."""
    return f"{sha256_of(folder / META_FILE)}  {META_FILE}\n"


def verified_meta(folder: Path, files: Sequence[str] = ()) -> dict[str, Any]:
    """Read meta.json, after it and `files` matched their checksums."""
    path = folder / META_FILE
    for name in (META_FILE, SUM_FILE):
        if not (folder / name).exists():
            raise InputError(f"{folder} lacks {name}: it is incomplete or of another version")
    with refusing(path, "damaged or not of a checkpoint"):
        if read_bytes(folder / SUM_FILE, _MAX_SUM_BYTES) != sum_line(folder).encode():
            raise InputError(f"{path} is damaged: its checksum differs from {SUM_FILE}")
        meta = check_description(read_json(path, MAX_DESCRIPTION), path)
        written, _, _ = meta["format"], dict(meta["sha256"]), step_name(meta["best_step"])
    if written != FORMAT:
        raise InputError(f"{folder}: checkpoint format {written}, this version reads {FORMAT}")
    for name in files:
        with refusing(folder / name, "cannot be read"):
            intact = sha256_of(folder / name) == meta["sha256"].get(name)
        if not intact:
            raise InputError(f"{folder / name} is damaged: its checksum differs from {META_FILE}")
    return meta
