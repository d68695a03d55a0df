"""Divide a split into folds, and train a network for each that has not seen it."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sceneparse.config.loading import render_config, validate
from sceneparse.config.segmentation import SegConfig
from sceneparse.data.checks.duplicates import fingerprints_of
from sceneparse.data.checks.splits import plan_splits
from sceneparse.data.datasets import SegmentationDataset
from sceneparse.errors import InputError, Preempted, first_few
from sceneparse.files import read_json
from sceneparse.runs.atomic import replace_text
from sceneparse.runs.checkpoint import newest_intact
from sceneparse.runs.folder import is_run_folder
from sceneparse.runtime.distributed import Process
from sceneparse.runtime.series import Series, in_front
from sceneparse.training.run import train
from sceneparse.training.segmentation import assemble_run
from sceneparse.training.start import open_run

logger = logging.getLogger(__name__)

_PLAN_FILE = "folds.json"
# Sections that the settings of a whole run have.
_SECTIONS = {"data", "model", "loss", "optim", "train"}


@dataclass(frozen=True)
class Folds:
    """The folds of a split: the numbers of the images of each, and what to tell about them."""

    members: list[list[int]]
    note: str


def plan_folds(dataset: SegmentationDataset, count: int) -> Folds:
    """Deal the images of a dataset to `count` folds of about equal size, always the same ones.

    Look-alikes, and images that follow each other in a video, share a fold; of a group that is too
    large for one, each fold gets a block in the order of names. Raises InputError for fewer images
    than folds.
    """
    images = [pair.image for pair in dataset.pairs]
    if not 2 <= count <= len(images):
        raise InputError(f"--folds must be in 2..{len(images)}, the number of images, got {count}")
    prints = fingerprints_of(images)
    names = [str(number) for number in range(count)]
    plan = plan_splits(images, prints, dict.fromkeys(names, 1.0), 0, "together", videos=True)
    members: list[list[int]] = [[] for _ in names]
    for number, image in enumerate(images):
        members[int(plan.split_of[image])].append(number)
    grouped = sum(map(len, plan.together))
    note = f"{count} folds of {', '.join(str(len(fold)) for fold in members)} images"
    if grouped:
        note += f"; {grouped} images look alike or follow each other, and share a fold"
    if plan.cut:
        note += f", but {len(plan.cut)} groups were too large for one and are cut in blocks"
    return Folds(members, note)


def fold_settings(meta: Mapping[str, Any], source: str, data: Mapping[str, str]) -> SegConfig:
    """Return the settings of a run, for the folds of other data.

    `meta`: the description of its model. `source`: its name for errors. `data`: settings of the
    section `data` to change. The one validation is the last: nothing is chosen by it. Raises
    InputError if the settings are not stored, or are of another version.
    """
    settings = copy.deepcopy(dict(meta.get("config", {})))
    if _SECTIONS - settings.keys():
        raise InputError(
            f"'{source}' does not store the settings that it was trained with, which --folds needs "
            "to train more networks; give a run folder of sceneparse train, or omit --folds"
        )
    settings["data"] |= data
    if data.get("dataset", "folder") != "folder":
        settings["data"]["classes"] = None
    settings["train"] |= {"device": None}  # another machine may have others
    settings.setdefault("eval", {})["every"] = settings["train"].get("epochs", 1)
    return validate(settings, SegConfig, f"the settings of '{source}'")


def train_folds(
    config: SegConfig,
    dataset: SegmentationDataset,
    folds: Folds,
    output: Path,
    process: Process,
) -> list[Path]:
    """Train a network per fold in OUTPUT/fold-N on all other folds; return their checkpoints.

    Folds that are finished are not trained again, and an interrupted one is resumed. Raises
    InputError if OUTPUT holds other folds, or if the settings do not fit the data; Preempted after
    a signal.
    """
    _record(config, dataset, folds, output)
    checkpoints, series = [], Series("fold", len(folds.members))
    for number, members in enumerate(folds.members, start=1):
        series.begin(number, len(folds.members) - number + 1)
        logger.info(f"fold {number} of {len(folds.members)}")
        folder = output / f"fold-{number}"
        chosen = set(members)
        others = [k for k in range(len(dataset)) if k not in chosen]
        train_set, held_out = (_part(dataset, numbers) for numbers in (others, members))
        own = config.model_copy(update={"output": str(folder)})
        try:
            with in_front(series.describe):
                _train_fold(own, train_set, held_out, process)
        except Preempted as error:
            raise Preempted(
                f"a signal was received, and fold {number} of {len(folds.members)} is saved; "
                "repeat the same command to resume it"
            ) from error
        saved = newest_intact(folder)
        assert saved is not None
        checkpoints.append(saved.folder)
    return checkpoints


def _train_fold(
    config: SegConfig,
    train_set: SegmentationDataset,
    held_out: SegmentationDataset,
    process: Process,
) -> None:
    resume = is_run_folder(Path(config.output))
    training = assemble_run(config, process, train_set, held_out, resume=resume)
    with training.lock.released_on_error():
        open_run(training, config, render_config(config))
    if training.finished:
        training.lock.release()
    else:
        train(training)


def _part(dataset: SegmentationDataset, numbers: Sequence[int]) -> SegmentationDataset:
    pairs = [dataset.pairs[number] for number in numbers]
    return SegmentationDataset(pairs, dataset.table, dataset.bit_depth)


def _record(config: SegConfig, dataset: SegmentationDataset, folds: Folds, output: Path) -> None:
    """Write which images and settings the folds have; raise InputError if there are others."""
    settings = config.model_dump(mode="json", exclude={"output": True, "train": {"device"}})
    plan = {
        "folds": [[dataset.pairs[k].name for k in members] for members in folds.members],
        **{f"settings {name}": value for name, value in settings.items()},
    }
    path = output / _PLAN_FILE
    if path.is_file():
        before = read_json(path)
        known = before if isinstance(before, dict) else {}
        if changed := [key for key, value in plan.items() if known.get(key) != value]:
            raise InputError(
                f"'{output}' was begun with other {first_few(changed)}; repeat the command that "
                "began it, or give another --output"
            )
        return
    output.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(plan, indent=1) + "\n")
