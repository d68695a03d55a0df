"""Convert a dataset that another tool wrote into the folder layout."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sceneparse.cli.command import command_parser, writing
from sceneparse.cli.options import add_option, add_quiet, number
from sceneparse.cli.output import print_summary
from sceneparse.data.file_names import require_storable
from sceneparse.errors import InputError, first_few
from sceneparse.files import files_of_users

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sceneparse.data.checks.splits import SplitPlan
    from sceneparse.data.formats.shared.source import Item, Source

EXAMPLES = """\
  sceneparse convert annotations/instances.json data/mine --images photos
  sceneparse convert labelme_folder data/mine --classes labels.txt
  sceneparse convert VOCdevkit/VOC2012 data/voc
  sceneparse convert painted data/mine --images photos --classes colors.csv
  sceneparse convert export data/mine --as coco-instances --split train=0.7 val=0.2 test=0.1

The format is recognised by the content. --classes FILE has a class per line: "road", with a colour
"road,128,64,128", "lorry = car" to count lorries as cars, "sky = __ignore__" to ignore sky.
The splits of the source are kept, unless --split is given. Images that look alike go into the same
split, and the same --seed gives the same splits. What Windows refuses in names of images is
encoded: a:b.jpg becomes a%3Ab.jpg."""
SHARES = ("train=0.8", "val=0.2")
SOURCE_OPTIONS = ("images", "classes", "unknown_colors")
SPLIT_OPTIONS = ("seed", "near_duplicates")


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    from sceneparse.data.formats import FORMATS

    result = command_parser("convert", "Convert a dataset of another tool into folders.", EXAMPLES)
    result.add_argument("source", metavar="SOURCE", type=Path, help="annotation file, or folder")
    result.add_argument("target", metavar="DATA", type=Path, help="folder to write, e.g. data/mine")
    add = partial(add_option, result)
    add("--as FORMAT", "format of the source, instead of recognising it", choices=tuple(FORMATS))
    add("--images FOLDER", "folder of the images, if they are not in SOURCE", type=Path)
    add("--classes FILE", "names of the classes, in order; see below", type=Path)
    add("--unknown-colors RULE", "colours outside the table: error (default), ignore or nearest")
    add("--split NAME=SHARE...", f"splits and their shares; default {' '.join(SHARES)}")
    add("--near-duplicates RULE", "images that look alike: together (default), drop or keep")
    add("--seed N", "random seed of the splits; default 0", type=number(int, 0))
    add("--link", "link to the images instead of copying them")
    add_quiet(result)
    return result


def main(options: argparse.Namespace) -> None:
    """Recognise and read the source, split its images, write the folders, print what was done."""
    from sceneparse.data.formats import find_format
    from sceneparse.data.formats.shared.folders import write_folders
    from sceneparse.data.formats.shared.source import check_images, with_file_names
    from sceneparse.runtime.progress import Progress

    target: Path = options.target
    with writing(target):
        if target.exists() and not (target.is_dir() and not files_of_users(target)):
            raise InputError(f"'{target}' exists and is no empty folder; choose another folder")
    kind, why = find_format(options.source, vars(options)["as"], options.images)
    print(f"format       {kind.name} ({why})")
    source = kind.read(options.source, given(options, SOURCE_OPTIONS))
    check_images(source.items)
    plan = plan_of(options, source.items)
    source = with_file_names(source, plan.split_of, target)
    for note in (*source.notes, *plan.notes):
        print(f"note         {note}")
    with writing(target), Progress("convert", len(plan.split_of), "images") as progress:
        target.parent.mkdir(parents=True, exist_ok=True)
        written = write_folders(
            source, target, plan.split_of, link=options.link, after_item=progress.advance
        )
    if options.link and written.copied:  # which was not asked for
        print(f"note         {written.description}")
    print_result(source, plan, written.pixels, target)


def given(options: argparse.Namespace, names: Sequence[str]) -> dict[str, object]:
    """Return the options among `names` that were given."""
    values = {name: getattr(options, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def plan_of(options: argparse.Namespace, items: Sequence[Item]) -> SplitPlan:
    """Return the split of each image: that of the source, or by shares."""
    from sceneparse.data.checks.duplicates import fingerprints_of
    from sceneparse.data.checks.splits import SplitPlan, plan_splits

    own = {item.image: item.split for item in items if item.split is not None}
    if len(set(own.values())) > 1 and options.split is None:
        if alone := [item.image for item in items if item.split is None]:
            raise InputError(
                f"{len(alone)} of {len(items)} images are in none of the source's splits, "
                f"{', '.join(dict.fromkeys(own.values()))}: {first_few(alone)}; give --split to "
                "split all images anew, or remove these"
            )
        refuse_useless(
            options, SPLIT_OPTIONS, "the source has its own splits (--split makes others)"
        )
        return SplitPlan(own, [], [])
    shares = split_shares(options.split or SHARES)
    rule = options.near_duplicates or "together"
    if len(shares) == 1:
        useless = SPLIT_OPTIONS if rule in {"together", "keep"} else SPLIT_OPTIONS[:1]
        refuse_useless(options, useless, "all images are in one split")
    images = [item.image for item in items]
    needed = rule == "drop" or (rule == "together" and len(shares) > 1)
    prints = fingerprints_of(images) if needed else ()
    return plan_splits(images, prints, shares, options.seed or 0, rule)


def refuse_useless(options: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """Raise InputError if one of these options was given, because it would change nothing."""
    if useless := [f"--{name.replace('_', '-')}" for name in given(options, names)]:
        raise InputError(f"{' and '.join(useless)} would change nothing: {why}; leave it out")


def print_result(source: Source, plan: SplitPlan, pixels: NDArray[Any], target: Path) -> None:
    """Print images, splits, pixels per class, what was skipped, and the next command."""
    counts = Counter(plan.split_of.values())
    sizes = ", ".join(f"{name} {count}" for name, count in counts.items())
    numbers = [*range(len(source.classes)), source.ignore_index]
    names = [*source.classes, "(ignored)"]
    total, wide = max(int(pixels.sum()), 1), max(map(len, names))
    for k, name, count in zip(numbers, names, pixels.tolist(), strict=True):
        head = "classes" if k == 0 else ""
        print(f"{head:<12} {k:>3} {name:<{wide}} {count:>13,} px {100 * count / total:7.3f}%")
    if plan.dropped:
        source.skipped.add("near-duplicate images", plan.dropped[0], len(plan.dropped))
    for k, line in enumerate(source.skipped.lines() or ["nothing"]):
        print(f"{'skipped' if k == 0 else '':<12} {line}")
    rows = {
        "converted": f"{len(plan.split_of)} images ({sizes})",
        "dataset": target,
        "classes": target / "classes.txt",
    }
    check = ["sceneparse", "check", str(target), "--splits", *counts]
    print_summary("convert", rows, check)


def split_shares(texts: Sequence[str]) -> dict[str, float]:
    """Read arguments NAME=SHARE; raise InputError for a wrong name or share."""
    shares: dict[str, float] = {}
    for text in texts:
        name, _, share = text.partition("=")
        is_new = name.casefold() not in map(str.casefold, shares)  # also for disks of Windows
        try:
            shares[name] = float(share)
        except ValueError:
            shares[name] = -1.0
        if not (is_new and re.fullmatch(r"[\w-]+", name) and 0 < shares[name] < float("inf")):
            raise InputError(
                f"--split takes different names of letters and digits, each with a share above 0, "
                f"e.g. train=0.8 val=0.2; got '{text}'"
            )
        require_storable(name, "--split")
    return shares
