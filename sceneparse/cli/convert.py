"""Convert a dataset of another format into the folder layout."""

import argparse
from collections import Counter
from functools import partial
from pathlib import Path

from sceneparse.cli.command import command_parser, writing
from sceneparse.cli.options import add_option
from sceneparse.errors import InputError, first_few

EXAMPLES = """\
  sceneparse convert voc data/mine --masks SegmentationClass --images JPEGImages
  sceneparse convert colors data/mine --masks painted --images photos --table colors.csv
  sceneparse convert pairs data/mine --table pairs.csv
  sceneparse convert labelme data/mine --annotations labelled
  sceneparse convert coco-panoptic data/mine --annotations panoptic.json --images val2017
  sceneparse convert coco-instances data/mine --annotations inst.json --images val2017

colors: TABLE is a CSV with the columns name,r,g,b; a class named ignore or void is ignored.
pairs: TABLE is a CSV with the columns image,mask, relative to it; 255 in masks is ignored.
Near-duplicate images go into the same split; the same seed gives the same splits."""
# Options by which a format names its source.
SOURCE = {
    "images": "folder of the images",
    "masks": "folder of the masks",
    "annotations": "JSON file, or folder of JSON files (labelme)",
    "table": "CSV file",
    "root": "pairs, labelme: folder of all images; default that of the CSV or JSON files",
}


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    from sceneparse.data.formats import FORMATS

    result = command_parser("convert", "Convert a dataset into folders.", EXAMPLES)
    result.add_argument("format", choices=FORMATS, metavar="FORMAT", help=", ".join(FORMATS))
    result.add_argument("target", metavar="DATA", help="folder to write, e.g. data/mine")
    add = partial(add_option, result)
    for name, meaning in SOURCE.items():
        add(f"--{name} PATH", meaning, type=Path)
    add("--split NAME=SHARE...", "splits and their shares", default=["train=0.8", "val=0.2"])
    add("--seed N", "random seed of the splits; default 0", type=int, default=0)
    return result


def main(options: argparse.Namespace) -> None:
    """Read the source, split its images, write the folders."""
    from sceneparse.data.checks.duplicates import fingerprint_of
    from sceneparse.data.checks.splits import plan_splits
    from sceneparse.data.formats import read_source
    from sceneparse.data.formats.shared.folders import write_folders
    from sceneparse.data.reading import read_image
    from sceneparse.runtime.progress import Progress

    target = Path(options.target)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise InputError(f"'{target}' exists and is no empty folder; choose another folder")
    shares = split_shares(options.split)
    source = read_source(options.format, {name: getattr(options, name) for name in SOURCE})
    images = [item.image for item in source.items]
    check_images(images)
    progress = Progress(2 * len(images), "images")
    fingerprints = []
    for image in images:
        fingerprints.append(fingerprint_of(read_image(image)))
        progress.advance(1)
    plan = plan_splits(images, fingerprints, shares, options.seed, "together")
    try:
        with writing(target):
            write_folders(source, target, plan.split_of, lambda: progress.advance(1))
    finally:
        progress.close()
    counts = Counter(plan.split_of.values())
    sizes = ", ".join(f"{name} {counts[name]}" for name in shares)
    print(f"{len(images)} images with {len(source.classes)} classes in {target}: {sizes}")
    for note in plan.notes:
        print(f"note         {note}")
    print(f"check it     sceneparse check {target} --splits {' '.join(shares)}")


def split_shares(texts: list[str]) -> dict[str, float]:
    """Read arguments NAME=SHARE; raise InputError for a wrong name or share."""
    shares = {}
    for text in texts:
        name, _, share = text.partition("=")
        try:
            shares[name] = float(share)
        except ValueError:
            shares[name] = -1.0
        if name in {"", ".", ".."} or "/" in name or not shares[name] > 0:
            raise InputError(f"--split takes e.g. train=0.8 val=0.2, got '{text}'")
    return shares


def check_images(images: list[Path]) -> None:
    """Raise InputError for no images, missing images, and names that occur twice."""
    if not images:
        raise InputError("the source holds no images")
    if missing := [image for image in images if not image.is_file()]:
        raise InputError(f"{len(missing)} images do not exist: {first_few(missing)}")
    stems = Counter(image.stem for image in images)
    if repeated := [name for name, count in stems.items() if count > 1]:
        raise InputError(f"{len(repeated)} names occur twice: {first_few(repeated)}")
