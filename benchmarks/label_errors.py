"""Measure how well `check --model` finds wrong labels: `python -m benchmarks.label_errors`.

Regions of a split's masks are made wrong at random: a third gets another class, a third (missing
objects) the class around it, of a third the border is shifted. Networks are trained on folds of
these masks, and each fold is questioned by the network that has not seen it. Measured is which of
the first suspects point at a flipped region, and how many of the flipped regions they find, against
chance and against the regions of largest loss. Errors that the masks had before count as false
alarms. With --cleanlab, cleanlab's own score ranks the same regions, those of the pixels that it
finds, and the images. A run that was interrupted is resumed by the same command.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.cleanlab_scores import (
    Issues,
    Pixels,
    find_issues,
    require_cleanlab,
    soft_minimum,
)
from benchmarks.label_flips import KINDS, write_flipped
from sceneparse.cli.command import command_parser, run
from sceneparse.config.loading import load_config
from sceneparse.config.recipes import find_config
from sceneparse.config.segmentation import SegConfig
from sceneparse.data.datasets import SegmentationDataset, create_dataset
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
# Numbers of first suspects that precision and recall are given for.
FIRST = (100, 200)

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
    result.add_argument("--cleanlab", action="store_true", help="rank by cleanlab's score too")
    result.add_argument("--output", type=Path, default=Path("runs/label_errors"), help="folder")
    result.add_argument("--json", type=Path, help="write the result to this file as well")
    return result


def main(options: argparse.Namespace) -> None:
    """Flip labels, train and predict what is not finished, and print the scores of all rankings."""
    if options.cleanlab:
        require_cleanlab()
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
    rankings, images = orders_of(found, every), {"score": image_order(found, len(flipped))}
    if options.cleanlab:
        issues = cleanlab_issues(options, flipped, folder)
        rankings |= cleanlab_orders(found, issues, folder)
        images["cleanlab's score"] = np.argsort(issues.images, kind="stable").tolist()
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
        "images_with_flips": len({flip["image"] for flip in flips}),
        "image_rankings": {
            name: {f"precision_{count}": image_precision(order, flips, count) for count in FIRST}
            for name, order in images.items()
        },
    }
    for path in filter(None, (options.output / "label_errors.json", options.json)):
        write_json(path, result)
    print(f"{as_text(scores)}\n\nby chance, of disagreeing regions: precision {chance:.3f}")


def predict_all(options: argparse.Namespace, dataset: SegmentationDataset, folder: Path) -> None:
    """Write where predictions disagree to FOLDER/NUMBER.npz, unless that is done."""
    if (folder / "done").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    found = disagreements(dataset, networks_of(options, dataset))
    with Progress("predict", len(dataset), "images") as progress:
        for number, differing in progress.over(found):
            np.savez(folder / f"{number}.npz", **vars(differing))
    (folder / "done").touch()


def networks_of(options: argparse.Namespace, dataset: SegmentationDataset) -> Parts:
    """Return the networks, each with the images that it has not seen; train those of folds."""
    if options.model:
        return [(Predictor(options.model), range(len(dataset)))]
    folds = plan_folds(dataset, options.folds)
    print(folds.note, flush=True)
    with join_processes() as process:
        config = fold_config(options)
        checkpoints = train_folds(config, dataset, folds, options.output / "folds", process)
    return (
        (Predictor(path), members) for path, members in zip(checkpoints, folds.members, strict=True)
    )


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


def cleanlab_issues(
    options: argparse.Namespace, dataset: SegmentationDataset, folder: Path
) -> Issues:
    """Return what cleanlab finds in the same predictions; FOLDER/cleanlab.npz keeps it."""
    path, classes = folder / "cleanlab.npz", dataset.table.num_classes
    if not path.is_file():
        with Progress("ask cleanlab", 2 * len(dataset), "images") as progress:
            found = find_issues(
                lambda: progress.over(labelled_pixels(dataset, networks_of(options, dataset))),
                classes,
            )
        np.savez(path, **vars(found))
    stored = read_arrays(path)
    return Issues(float(stored["quality"]), stored["images"])


@torch.inference_mode()
def labelled_pixels(dataset: SegmentationDataset, parts: Parts) -> Iterator[Pixels]:
    """Predict images; yield the labels and all probabilities of their labelled pixels."""
    for predictor, numbers in parts:
        for number in numbers:
            image, mask, _ = dataset[number]
            labelled = mask < dataset.table.num_classes
            probabilities = predictor.score(image[None]).probabilities()[0].cpu().numpy()
            yield number, mask[labelled].astype(int), probabilities[:, labelled].T


def cleanlab_orders(
    found: Sequence[Suspect], issues: Issues, folder: Path
) -> dict[str, list[Suspect]]:
    """Return the same regions, and those of cleanlab's pixels, in the order of its score."""
    at_most = float(np.nextafter(np.float32(issues.quality), np.float32(2)))
    own = [
        Suspect(number, region)
        for number in range(len(issues.images))
        for region in find_regions(read_disagreement(folder, number), at_most, 0)
    ]
    return {
        "cleanlab's score": by_soft_minimum(found, folder),
        "cleanlab's score, its issues": by_soft_minimum(own, folder),
    }


def by_soft_minimum(suspects: Sequence[Suspect], folder: Path) -> list[Suspect]:
    """Return suspects in the order of cleanlab's score of their pixels, the worst first."""
    scored: list[tuple[float, Suspect]] = []
    for suspect in sorted(suspects, key=lambda suspect: suspect.image):
        if not scored or suspect.image != scored[-1][1].image:
            differing = read_disagreement(folder, suspect.image)
            qualities = np.ones(differing.size, np.float32)
            qualities.ravel()[differing.where] = differing.quality
        scored.append((soft_minimum(pixels_of(suspect, qualities)), suspect))
    return [suspect for _, suspect in sorted(scored, key=lambda pair: pair[0])]


def image_order(suspects: Sequence[Suspect], count: int) -> list[int]:
    """Return images by their first suspect; those without one come last."""
    return [*dict.fromkeys([*(suspect.image for suspect in suspects), *range(count)])]


def image_precision(order: Sequence[int], flips: Sequence[Mapping[str, Any]], count: int) -> float:
    """Return the share of the first `count` images that hold a flip."""
    flipped = {flip["image"] for flip in flips}
    return sum(image in flipped for image in order[:count]) / count


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
