"""Convert a dataset of another format into the folder layout."""

from __future__ import annotations

import argparse
from pathlib import Path

from sceneparse.cli.command import command_parser

EXAMPLES = """\
  sceneparse convert voc data/mine --masks SegmentationClass --images JPEGImages
  sceneparse convert colors data/mine --masks painted --images photos --table colors.csv
  sceneparse convert pairs data/mine --table pairs.csv
  sceneparse convert labelme data/mine --annotations labelled
  sceneparse convert coco-panoptic data/mine --annotations panoptic.json --images val2017
  sceneparse convert coco-instances data/mine --annotations inst.json --images val2017

colors: a CSV with the columns name,r,g,b; a class named ignore or void is not trained on.
pairs: a CSV with the columns image,mask, relative to the file; masks hold 0..K-1, 255 is ignored.
Near-duplicate images go into one split; the same seed gives the same splits."""

OPTIONS = ("images", "masks", "annotations", "table", "root")


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    from sceneparse.data.formats import FORMATS

    result = command_parser(
        "convert", "Convert a dataset into folders of images and masks.", EXAMPLES
    )
    result.add_argument("format", choices=FORMATS)
    result.add_argument("target", help="folder to make, e.g. data/mine")
    result.add_argument("--images", type=Path, help="folder of the images")
    result.add_argument("--masks", type=Path, help="folder of the masks")
    result.add_argument("--annotations", type=Path, help="JSON file, or folder of LabelMe's")
    result.add_argument("--table", type=Path, help="CSV file")
    result.add_argument(
        "--root",
        type=Path,
        help="pairs, labelme: all images lie in this folder (that of the CSV or JSON files)",
    )
    result.add_argument(
        "--split",
        nargs="+",
        default=["train=0.8", "val=0.2"],
        metavar="NAME=SHARE",
        help="splits and their shares (train=0.8 val=0.2)",
    )
    result.add_argument("--seed", type=int, default=0, help="random seed of the splits (0)")
    return result


def main(options: argparse.Namespace) -> None:
    """Read the source, split its images, write the folders."""
    from sceneparse.data.checks.duplicates import fingerprint_of
    from sceneparse.data.checks.splits import split_images
    from sceneparse.data.formats import read_source
    from sceneparse.data.formats.shared.folders import write_folders
    from sceneparse.data.reading import read_image
    from sceneparse.errors import InputError
    from sceneparse.runtime.progress import Progress

    target = Path(options.target)
    if target.exists() and any(target.iterdir()):
        raise InputError(f"'{target}' is not empty; choose another folder")
    shares = split_shares(options.split)
    source = read_source(options.format, {name: getattr(options, name) for name in OPTIONS})
    images = [item.image for item in source.items]
    refuse_ambiguous(images)
    progress = Progress(2 * len(images), "images")
    fingerprints = []
    for image in images:
        fingerprints.append(fingerprint_of(read_image(image)))
        progress.advance(1)
    splits = split_images(images, fingerprints, shares, options.seed)
    try:
        write_folders(source, target, splits, lambda: progress.advance(1))
    except OSError as error:
        raise InputError(f"cannot write into '{target}': {error.strerror}") from error
    finally:
        progress.close()
    counts = {name: sum(split == name for split in splits.values()) for name in shares}
    described = ", ".join(f"{name} {count}" for name, count in counts.items())
    print(f"{len(images)} images with {len(source.classes)} classes in {target}: {described}")
    print(f"check it     sceneparse check {target} --splits {' '.join(shares)}")


def split_shares(texts: list[str]) -> dict[str, float]:
    """Read NAME=SHARE arguments."""
    from sceneparse.errors import InputError

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


def refuse_ambiguous(images: list[Path]) -> None:
    """Refuse an empty source, missing images, and names that would overwrite one another."""
    from collections import Counter

    from sceneparse.errors import InputError, first_few

    if not images:
        raise InputError("the source holds no images")
    missing = [image for image in images if not image.is_file()]
    if missing:
        raise InputError(f"{len(missing)} images do not exist: {first_few(missing)}")
    repeated = [name for name, n in Counter(image.stem for image in images).items() if n > 1]
    if repeated:
        raise InputError(f"{len(repeated)} names occur twice: {first_few(repeated)}")
