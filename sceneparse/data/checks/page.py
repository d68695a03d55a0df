"""Compute what the page about a dataset shows: shares, bars and pictures."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sceneparse.data.checks.full import Duplicates, SampleFacts
from sceneparse.data.datasets import SegmentationDataset, spread
from sceneparse.data.labels import palette_color
from sceneparse.data.reading import read_image, read_mask
from sceneparse.errors import InputError
from sceneparse.report.pages import picture_uri
from sceneparse.report.pictures import Picture, colorize, overlay, side_by_side

_EXAMPLES = 6
_MAX_FIGURES = 24
# Pixels of the long side of a picture; large enough to be enlarged.
_LONGEST = 640


def page_values(
    title: str,
    datasets: Mapping[str, SegmentationDataset],
    facts: Sequence[SampleFacts],
    duplicates: Sequence[Duplicates],
    summary: Mapping[str, Any],
    failures: Sequence[str],
) -> dict[str, Any]:
    """Compute all values of data_page.html."""
    table = next(iter(datasets.values())).table
    good = "Training can start: every file was decoded and every label is in the table."
    return {
        "title": title,
        "verdict": f"{len(failures)} problems" if failures else good,
        "failures": list(failures)[:20],
        "summary": summary,
        "names": table.names,
        "colors": [tuple(color) for color in table.colors],
        "shares": {split: _shares(facts) for split, facts in summary["splits"].items()},
        "galleries": {
            "Samples that cannot be used": _broken_figures(facts),
            "Images in two splits": [
                _figure(f, [read_image(f.pair.image, datasets[f.split].bit_depth)])
                for first, second, _ in duplicates[: _MAX_FIGURES // 2]
                for f in (first, second)
            ],
            "Odd masks": [
                _figure(f, _overlaid(datasets[f.split], f), f": {f.suspicion}")
                for f in [f for f in facts if f.suspicion][:_MAX_FIGURES]
            ],
            "Examples": [
                _figure(f, _overlaid(dataset, f))
                for split, dataset in datasets.items()
                for f in _examples(split, facts)
            ],
        },
    }


def _figure(facts: SampleFacts, pictures: Sequence[Picture], note: str = "") -> dict[str, str]:
    uri = picture_uri(side_by_side(pictures), longest=_LONGEST * len(pictures))
    return {"uri": uri, "caption": f"{facts.split}: {facts.pair.name}{note}"}


def _shares(split: Mapping[str, Any]) -> dict[str, Any]:
    """Return percent of all pixels per class and ignored; bars relative to the largest class."""
    pixels = [row["pixels"] for row in split["classes"]]
    total, largest = max(sum(pixels) + split["ignored_pixels"], 1), max(*pixels, 1)
    return {
        "ignored": 100 * split["ignored_pixels"] / total,
        "classes": [100 * count / total for count in pixels],
        "bars": [round(100 * count / largest, 1) for count in pixels],
    }


def _broken_figures(facts: Sequence[SampleFacts]) -> list[dict[str, str]]:
    """Show what still decodes, image or mask, of samples that cannot be used."""
    decoded = ((f, _try_image(f.pair.image) + _try_mask(f.pair.mask)) for f in facts if f.problem)
    figures = (_figure(f, shown, f": {f.problem}") for f, shown in decoded if shown)
    return list(itertools.islice(figures, _MAX_FIGURES))


def _try_image(path: Path) -> list[Picture]:
    try:
        return [read_image(path)]
    except InputError:  # reported as the sample's problem
        return []


def _try_mask(path: Path) -> list[Picture]:
    """Paint raw label values, whatever they mean; show a mask of colours as it is."""
    try:
        raw = read_mask(path)
    except InputError:
        return _try_image(path)
    return [colorize(raw & 255, [palette_color(value) for value in range(256)])]


def _examples(split: str, facts: Sequence[SampleFacts]) -> list[SampleFacts]:
    usable = [f for f in facts if f.split == split and f.problem is None]
    return [usable[i] for i in spread(len(usable), _EXAMPLES)]


def _overlaid(dataset: SegmentationDataset, facts: SampleFacts) -> list[Picture]:
    """Return an image, and the image under the colours of its mask."""
    image, mask, _ = dataset[dataset.pairs.index(facts.pair)]
    return [image, overlay(image, mask, dataset.table, legend="none")]
