"""Measure how well `check --model` finds wrong labels: `python -m benchmarks.label_errors`.

Regions of a split's masks are made wrong at random: a third gets another class, a third (missing
objects) the class around it, of a third the border is shifted. Networks are trained on folds of
these masks, and each fold is questioned by the network that has not seen it. Measured is which of
the first suspects point at a flipped region, and how many of the flipped regions they find, against
chance and against the regions of largest loss. Errors that the masks had before count as false
alarms. A run that was interrupted is resumed by the same command.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sceneparse.cli.command import command_parser, run
from sceneparse.config.loading import load_config
from sceneparse.config.recipes import find_config
from sceneparse.config.segmentation import SegConfig
from sceneparse.data.datasets import SegmentationDataset, create_dataset
from sceneparse.errors import InputError
from sceneparse.files import read_arrays
from sceneparse.inference.predictor import Predictor
from sceneparse.report.tables import Table, write_json
from sceneparse.runtime.distributed import join_processes
from sceneparse.runtime.progress import Progress
from sceneparse.suspects.folds import plan_folds, train_folds
from sceneparse.suspects.regions import Disagreement, Region, find_regions
from sceneparse.suspects.search import Parts, Suspect, disagreements, ranked

RECIPE = "study/camvid_half"
NETWORK = ["model.head=strip_pooling_plus", "model.head_options={fine_strip: true}"]
KINDS = ("swapped class", "missing object", "shifted border")
# Share of the image that a region to flip covers, and the fewest pixels of a flip.
_SMALLEST, _LARGEST, _MIN_PIXELS = 0.001, 0.05, 32
# Numbers of first suspects that precision and recall are given for.
FIRST = (100, 200)

Mask = NDArray[Any]
EXAMPLES = """\
  python -m benchmarks.label_errors --data camvid --weights mobilenetv2_100.safetensors
  python -m benchmarks.label_errors --data camvid --model runs/camvid --split val --flips 60"""


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    result = command_parser("benchmark", str(__doc__), EXAMPLES)
    result.prog = "python -m benchmarks.label_errors"
    result.add_argument("settings", nargs="*", help=f"KEY=VALUE: changes of {RECIPE}")
    result.add_argument("--data", required=True, help="folder of the dataset")
    result.add_argument("--dataset", default="camvid", help="its layout; default: camvid")
    result.add_argument("--split", default="train", help="split to flip labels of; default: train")
    choice = result.add_mutually_exclusive_group(required=True)
    choice.add_argument("--weights", help="file of timm's mobilenetv2_100, to train folds from")
    choice.add_argument("--model", help="run that has not seen the split, in place of folds")
    result.add_argument("--flips", type=int, default=200, help="regions to flip; default: 200")
    result.add_argument("--folds", type=int, default=3, help="default: 3")
    result.add_argument("--epochs", type=int, default=24, help="epochs of each fold; default: 24")
    result.add_argument("--seed", type=int, default=0, help="of flips and training; default: 0")
    result.add_argument("--output", type=Path, default=Path("runs/label_errors"), help="folder")
    result.add_argument("--json", type=Path, help="write the result to this file as well")
    return result


def main(options: argparse.Namespace) -> None:
    """Flip labels, train and predict what is not finished, and print the scores of all rankings."""
    original = create_dataset(options.dataset, options.data, options.split)
    asked = {name: getattr(options, name) for name in ("data", "split", "flips", "seed")}
    data = options.output / "data"
    flips = write_flipped(original, data, asked)
    flipped = create_dataset("folder", data, "flipped")
    folder = options.output / "predictions"
    predict_all(options, flipped, folder)
    numbers = range(len(flipped))
    found, every = (
        ranked(
            Suspect(number, region)
            for number in numbers
            for region in find_regions(read_disagreement(folder, number), *bounds)
        )
        for bounds in ((), (math.inf, 0))
    )
    rankings = orders_of(found, every)
    changed = [
        np.asarray(cv2.imread(str(data / "changes" / f"{k:05d}.png"), -1), np.uint16)
        for k in numbers
    ]
    scores = {name: scores_of(ranking, changed, len(flips)) for name, ranking in rankings.items()}
    chance = float(np.mean([hit > 0 for hit in hits_of(every, changed)])) if every else 0.0
    result = {
        "settings": {**asked, "data": Path(options.data).name, "folds": options.folds},
        "epochs": options.epochs,
        "images": len(flipped),
        "flips": {kind: sum(flip["kind"] == kind for flip in flips) for kind in KINDS},
        "suspects": len(found),
        "disagreeing_regions": len(every),
        "precision_by_chance": chance,
        "rankings": scores,
    }
    for path in filter(None, (options.output / "label_errors.json", options.json)):
        write_json(path, result)
    print(f"{as_text(scores)}\n\nby chance, of disagreeing regions: precision {chance:.3f}")


def write_flipped(
    dataset: SegmentationDataset, folder: Path, asked: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Write a dataset with flipped labels, all of it or nothing; return its flips.

    Beside the split "flipped", changes/NUMBER.png holds the number of the flip, from 1, of every
    changed pixel. Raises InputError if `folder` was made by other settings, or if there are not
    enough regions.
    """
    record = folder / "flips.json"
    if folder.is_dir():
        before = json.loads(record.read_text(encoding="utf-8"))
        if before["asked"] != dict(asked):
            raise InputError(f"'{folder}' was made with other settings; give another --output")
        return list(before["flips"])
    partial = folder.with_name(".data.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for kind in ("flipped/images", "flipped/labels", "changes"):
        (partial / kind).mkdir(parents=True)
    masks = [dataset.mask(number) for number in range(len(dataset))]
    changes, flips = flip_labels(masks, dataset.table.num_classes, asked["flips"], asked["seed"])
    for number, (pair, mask, change) in enumerate(zip(dataset.pairs, masks, changes, strict=True)):
        name = f"{number:05d}"
        link = partial / "flipped/images" / f"{name}{pair.image.suffix}"
        link.symlink_to(pair.image.resolve())
        cv2.imwrite(str(partial / "flipped/labels" / f"{name}.png"), mask)
        cv2.imwrite(str(partial / "changes" / f"{name}.png"), change)
    names = "\n".join(dataset.table.names)
    (partial / "classes.txt").write_text(f"{names}\n", encoding="utf-8")
    text = json.dumps({"asked": dict(asked), "flips": flips}, indent=1)
    (partial / "flips.json").write_text(text, encoding="utf-8")
    partial.rename(folder)
    return flips


def flip_labels(
    masks: Sequence[Mask], num_classes: int, count: int, seed: int
) -> tuple[list[NDArray[np.uint16]], list[dict[str, Any]]]:
    """Make `count` regions of masks (H, W) wrong, in place; return changed pixels and flips.

    The changed pixels of each mask hold the number of the flip, from 1, the others 0. Flips are
    spread over the images and do not touch each other.
    """
    generator = np.random.default_rng(seed)
    changes = [np.zeros(mask.shape, np.uint16) for mask in masks]
    flips: list[dict[str, Any]] = []
    used = sorted({int(k) for mask in masks for k in np.unique(mask) if k < num_classes})
    while len(flips) < count:
        before = len(flips)
        for number in generator.permutation(len(masks)).tolist():
            if len(flips) == count:
                break
            kind = KINDS[len(flips) % len(KINDS)]
            new = flip_one(masks[number], changes[number], kind, used, generator)
            if new is None:
                continue
            different = new != masks[number]
            flips.append({"image": number, "kind": kind, "pixels": int(different.sum())})
            changes[number][different] = len(flips)
            masks[number][different] = new[different]
        if len(flips) == before:
            raise InputError(f"only {before} of {count} regions can be flipped; ask for fewer")
    return changes, flips


def flip_one(
    mask: Mask,
    changed: NDArray[np.uint16],
    kind: str,
    used: Sequence[int],
    generator: np.random.Generator,
) -> Mask | None:
    """Return a mask with one more wrong region, away from those `changed`; None if none fits.

    `used`: the classes to choose from.
    """
    # A margin keeps two flips from being one region.
    free = cv2.dilate((changed > 0).astype(np.uint8), np.ones((9, 9), np.uint8)) == 0
    regions = list(regions_of(mask, used))
    for chosen in generator.permutation(len(regions)).tolist():
        given, region = regions[chosen]
        around = label_around(mask, region, used, given)
        if around is None:
            continue
        new: Mask = mask.copy()
        new[region] = around
        if kind == "swapped class":
            new[region] = generator.choice([k for k in used if k != given])
        elif kind == "shifted border":
            new[shifted(region, generator) & np.isin(mask, used)] = given
        different = new != mask
        if different.sum() >= _MIN_PIXELS and free[different].all():
            return new
    return None


def regions_of(mask: Mask, used: Sequence[int]) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Yield the connected regions of a mask that are neither tiny nor large, with their class."""
    low, high = max(_SMALLEST * mask.size, _MIN_PIXELS), _LARGEST * mask.size
    for k in used:
        own = (mask == k).astype(np.uint8)
        count, numbers, boxes, _ = cv2.connectedComponentsWithStats(own, connectivity=8)
        for number in range(1, count):
            if low <= boxes[number, cv2.CC_STAT_AREA] <= high:
                yield k, numbers == number


def label_around(
    mask: Mask, region: NDArray[np.bool_], used: Sequence[int], given: int
) -> int | None:
    """Return the most frequent other class next to a region; None if there is none."""
    near = cv2.dilate(region.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    labels = mask[near & ~region & np.isin(mask, used)]
    labels = labels[labels != given]
    return int(np.bincount(labels).argmax()) if labels.size else None


def shifted(region: NDArray[np.bool_], generator: np.random.Generator) -> NDArray[np.bool_]:
    """Return a region moved by a third of its mean diameter, in a random direction."""
    length, angle = max(np.sqrt(region.sum()) / 3, 4), generator.uniform(0, 2 * np.pi)
    move = np.array([[1, 0, length * np.cos(angle)], [0, 1, length * np.sin(angle)]])
    size = region.shape[1], region.shape[0]
    moved = cv2.warpAffine(region.astype(np.uint8), move, size, flags=cv2.INTER_NEAREST)
    return np.asarray(moved > 0)


def predict_all(options: argparse.Namespace, dataset: SegmentationDataset, folder: Path) -> None:
    """Write where predictions disagree to FOLDER/NUMBER.npz, unless that is done."""
    if (folder / "done").is_file():
        return
    parts: Parts = [(Predictor(options.model), range(len(dataset)))] if options.model else ()
    if not options.model:
        folds = plan_folds(dataset, options.folds)
        print(folds.note, flush=True)
        with join_processes() as process:
            config = fold_config(options)
            checkpoints = train_folds(config, dataset, folds, options.output / "folds", process)
        parts = (
            (Predictor(path), members)
            for path, members in zip(checkpoints, folds.members, strict=True)
        )
    folder.mkdir(parents=True, exist_ok=True)
    with Progress("predict", len(dataset), "images") as progress:
        for number, differing in progress.over(disagreements(dataset, parts)):
            np.savez(folder / f"{number}.npz", **vars(differing))
    (folder / "done").touch()


def read_disagreement(folder: Path, number: int) -> Disagreement:
    """Read what `predict_all` wrote about an image."""
    return Disagreement(**read_arrays(folder / f"{number}.npz"))


def fold_config(options: argparse.Namespace) -> SegConfig:
    """Return the settings of the folds: the recipe, on the flipped labels."""
    own = [
        *("data.dataset=folder", f"data.root={options.output / 'data'}"),
        *("data.train_split=flipped", "data.val_split=flipped"),
        *(f"model.pretrained={options.weights}", f"seed={options.seed}"),
        *(f"train.epochs={options.epochs}", f"eval.every={options.epochs}"),
    ]
    settings = [*NETWORK, *options.settings, *own]
    return load_config(find_config(RECIPE, Path()), settings, SegConfig)


def orders_of(found: Sequence[Suspect], every: Sequence[Suspect]) -> dict[str, list[Suspect]]:
    """Return suspects in the orders to compare.

    `found`: suspects, by score. `every`: all regions of disagreement, whose order by loss is what
    one would look through without a score.
    """
    return {
        "score": list(found),
        "label quality": sorted(found, key=lambda suspect: suspect.region.quality),
        "expected wrong pixels": sorted(found, key=lambda suspect: -wrong_pixels(suspect.region)),
        "score, all disagreements": list(every),
        "sum of losses": sorted(every, key=lambda one: -one.region.loss * one.region.pixels),
        "mean loss": sorted(every, key=lambda one: -one.region.loss),
    }


def wrong_pixels(region: Region) -> float:
    """Return the sum of the probability of the suggested class minus that of the label."""
    return region.pixels * (region.confidence - region.quality)


def pixels_of(suspect: Suspect, values: NDArray[Any]) -> NDArray[Any]:
    """Return the values (H, W) of an image in the pixels of a suspect region: (n,)."""
    x, y, width, height = suspect.region.box
    return np.asarray(values[y : y + height, x : x + width][suspect.region.shape])


def hits_of(suspects: Sequence[Suspect], changed: Sequence[NDArray[np.uint16]]) -> list[int]:
    """Return the flip that at least half of each suspect's pixels are of; 0: of none."""
    hits = []
    for suspect in suspects:
        counts = np.bincount(pixels_of(suspect, changed[suspect.image]), minlength=1)
        counts[0] = 0  # pixels that no flip changed
        most = int(counts.argmax())
        hits.append(most if 2 * counts[most] >= suspect.region.pixels else 0)
    return hits


def scores_of(
    suspects: Sequence[Suspect], changed: Sequence[NDArray[np.uint16]], flips: int
) -> dict[str, float]:
    """Return precision and recall of the first suspects; precision counts missing ones as wrong."""
    hits = hits_of(suspects, changed)
    scores = {}
    for count in FIRST:
        right = [hit for hit in hits[:count] if hit]
        scores[f"precision_{count}"] = len(right) / count
        scores[f"recall_{count}"] = len(set(right)) / flips
    scores["recall"] = len({hit for hit in hits if hit}) / flips
    return scores


def as_text(scores: Mapping[str, Mapping[str, float]]) -> str:
    """Format the scores of all rankings as a table."""
    heads = ["ranking", *next(iter(scores.values()))]
    rows = [[name, *(f"{value:.3f}" for value in row.values())] for name, row in scores.items()]
    return Table("Label errors", heads, rows).as_text()


if __name__ == "__main__":
    run(parser(), main)
