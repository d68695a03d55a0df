"""Compute what the page about a dataset shows: shares, bars and pictures."""

from __future__ import annotations

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
            "Images in two splits": _duplicate_figures(duplicates),
            "Odd masks": _odd_figures(datasets, facts),
            "Examples": [f for d in datasets.items() for f in _examples(*d, facts)],
        },
    }


def _shares(split: Mapping[str, Any]) -> dict[str, Any]:
    """Return percent of all pixels per class and ignored; bars relative to the largest class."""
    pixels = [row["pixels"] for row in split["classes"]]
    total, largest = max(sum(pixels) + split["ignored_pixels"], 1), max(*pixels, 1)
    return {
        "ignored": 100 * split["ignored_pixels"] / total,
        "classes": [100 * count / total for count in pixels],
        "bars": [round(100 * count / largest, 1) for count in pixels],
    }


def _duplicate_figures(duplicates: Sequence[Duplicates]) -> list[dict[str, str]]:
    figures: list[dict[str, str]] = []
    for pair in duplicates[: _MAX_FIGURES // 2]:
        for facts in (pair.first, pair.second):
            caption = f"{facts.split}: {facts.pair.name}"
            figures.append({"uri": picture_uri(read_image(facts.pair.image)), "caption": caption})
    return figures


def _broken_figures(facts: Sequence[SampleFacts]) -> list[dict[str, str]]:
    """Show what still decodes, image or mask, of samples that cannot be used."""
    figures: list[dict[str, str]] = []
    for f in facts:
        if f.problem is None or len(figures) == _MAX_FIGURES:
            continue
        shown = [
            picture
            for picture in (_try_image(f.pair.image), _try_mask(f.pair.mask))
            if picture is not None
        ]
        if shown:
            caption = f"{f.split}: {f.pair.name}: {f.problem}"
            figures.append(
                {"uri": picture_uri(side_by_side(shown), longest=640), "caption": caption}
            )
    return figures


def _try_image(path: Path) -> Picture | None:
    try:
        return read_image(path)
    except InputError:  # reported as the sample's problem
        return None


def _try_mask(path: Path) -> Picture | None:
    """Paint raw label values, whatever they mean; show a mask of colours as it is."""
    try:
        raw = read_mask(path)
    except InputError:
        return _try_image(path)
    return colorize(raw & 255, [palette_color(value) for value in range(256)])


def _odd_figures(
    datasets: Mapping[str, SegmentationDataset], facts: Sequence[SampleFacts]
) -> list[dict[str, str]]:
    odd = [f for f in facts if f.suspicion][:_MAX_FIGURES]
    return [_figure(datasets[f.split], f, f"{f.split}: {f.pair.name}: {f.suspicion}") for f in odd]


def _examples(
    split: str, dataset: SegmentationDataset, facts: Sequence[SampleFacts]
) -> list[dict[str, str]]:
    usable = [f for f in facts if f.split == split and f.problem is None]
    chosen = [usable[i] for i in spread(len(usable), _EXAMPLES)] if usable else []
    return [_figure(dataset, f, f"{split}: {f.pair.name}") for f in chosen]


def _figure(dataset: SegmentationDataset, facts: SampleFacts, caption: str) -> dict[str, str]:
    """Show an image beside the overlay of its mask."""
    image, mask, _ = dataset[dataset.pairs.index(facts.pair)]
    both = side_by_side([image, overlay(image, mask, dataset.table.colors)])
    return {"uri": picture_uri(both, longest=640), "caption": caption}
