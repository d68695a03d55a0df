"""Label maps as pictures: colours, overlays, and grids of image, truth and prediction."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sceneparse.data.labels import Color, LabelTable
from sceneparse.data.loader import Batch

Picture = NDArray[np.uint8]
_MARGIN = 8
_TEXT_SIZE = 15
_INK = (30, 30, 30)


class Example(NamedTuple):
    """One row of a grid: image RGB (H, W, 3), truth and prediction as train ids (H, W)."""

    name: str
    image: Picture
    truth: NDArray[Any]
    prediction: NDArray[Any]


class ExampleCollector:
    """Picks the examples of the given names out of the batches of an evaluation."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self.examples: list[Example] = []

    def add(self, batch: Batch, labels: Tensor) -> None:
        """Keep those samples of a batch that are wanted, with their predicted labels (B, H, W)."""
        for index, name in enumerate(batch.names):
            if name in self._names:
                image = batch.images[index].permute(1, 2, 0).numpy()
                truth, prediction = batch.targets[index].numpy(), labels[index].cpu().numpy()
                self.examples.append(Example(name, image, truth, prediction))


def colorize(labels: NDArray[Any], colors: Sequence[Color]) -> Picture:
    """Paint train ids (H, W) in their colours; ids outside 0..K-1 (ignored) become black."""
    palette = np.zeros((65536, 3), dtype=np.uint8)
    palette[: len(colors)] = colors
    painted: Picture = palette[labels]
    return painted


def overlay(image: Picture, labels: NDArray[Any], colors: Sequence[Color]) -> Picture:
    """Blend an image with the colours of its labels, half and half; ignored pixels stay."""
    painted = colorize(labels, colors)
    blended = (image.astype(np.uint16) + painted) // 2
    shown = labels[..., None] < len(colors)
    return np.where(shown, blended, image).astype(np.uint8)


def side_by_side(pictures: Sequence[Picture]) -> Picture:
    """Set pictures in a row, each at its own size."""
    height = max(picture.shape[0] for picture in pictures)
    filled = [
        np.pad(p, ((0, height - p.shape[0]), (0, 0), (0, 0)), constant_values=255) for p in pictures
    ]
    return np.concatenate(filled, axis=1)


def save_png(picture: Picture, path: Path) -> None:
    """Write an RGB picture (H, W, 3), making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def save_index_png(labels: NDArray[Any], colors: Sequence[Color], path: Path) -> None:
    """Write ids as a PNG: with the palette up to 256 classes, as 16-bit grey above."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if len(colors) > 256:
        Image.fromarray(labels.astype(np.uint16)).save(path)
        return
    image = Image.fromarray(labels.astype(np.uint8), mode="P")
    image.putpalette([channel for color in colors for channel in color])
    image.save(path)


def save_prediction(
    kind: str, path: Path, image: Tensor, labels: Tensor, table: LabelTable
) -> None:
    """Write a prediction (H, W) as PNG.

    "index": train ids with a palette; "raw": the data set's own label values, as its server wants
    them; "color"; "overlay" on the image (3, H, W).
    """
    ids = labels.cpu().numpy()
    if kind == "index":
        save_index_png(ids, table.colors, path)
    elif kind == "raw":
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(table.decode(ids)).save(path)
    elif kind == "color":
        save_png(colorize(ids, table.colors), path)
    else:
        save_png(overlay(image.permute(1, 2, 0).numpy(), ids, table.colors), path)


def example_grid(
    examples: Sequence[Example], names: Sequence[str], colors: Sequence[Color], width: int = 360
) -> Picture:
    """Draw a row per example (image, truth, prediction, errors) and a legend of its classes."""
    font = ImageFont.load_default(_TEXT_SIZE)
    rows = [_row(example, colors, width) for example in examples]
    seen = sorted(
        {int(i) for e in examples for i in (*np.unique(e.truth), *np.unique(e.prediction))}
    )
    legend = [(names[index], colors[index]) for index in seen if index < len(names)]
    total_width = 4 * (width + _MARGIN) + _MARGIN
    boxes = _legend_boxes(legend, total_width, font)
    line = _TEXT_SIZE + 9
    height = (
        line + sum(row.height + _MARGIN for row in rows) + (boxes[-1][1] + line if boxes else 0)
    )
    canvas = Image.new("RGB", (total_width, height + _MARGIN), "white")
    draw = ImageDraw.Draw(canvas)
    for column, title in enumerate(("image", "truth", "prediction", "wrong pixels")):
        draw.text((_MARGIN + column * (width + _MARGIN), 5), title, fill=_INK, font=font)
    top = line
    for row in rows:
        canvas.paste(row, (_MARGIN, top))
        top += row.height + _MARGIN
    for (name, color), (left, down) in zip(legend, boxes, strict=True):
        draw.rectangle((left, top + down, left + 16, top + down + 16), fill=color, outline=_INK)
        draw.text((left + 22, top + down - 1), name, fill=_INK, font=font)
    return np.asarray(canvas)


def _row(example: Example, colors: Sequence[Color], width: int) -> Image.Image:
    wrong = (example.truth != example.prediction) & (example.truth < len(colors))
    errors = np.where(wrong[..., None], np.array((220, 30, 30)), example.image // 3 + 160)
    pictures = (
        example.image,
        colorize(example.truth, colors),
        colorize(example.prediction, colors),
        errors.astype(np.uint8),
    )
    height = max(round(example.image.shape[0] * width / example.image.shape[1]), 1)
    row = Image.new("RGB", (4 * width + 3 * _MARGIN, height), "white")
    for column, picture in enumerate(pictures):
        kind = Image.Resampling.BILINEAR if column == 0 else Image.Resampling.NEAREST
        small = Image.fromarray(picture).resize((width, height), kind)
        row.paste(small, (column * (width + _MARGIN), 0))
    return row


def _legend_boxes(
    legend: Sequence[tuple[str, Color]],
    width: int,
    font: Any,  # noqa: ANN401 - Pillow's two fonts
) -> list[tuple[int, int]]:
    """Place the legend's entries one after the other, in as many lines as they need."""
    boxes, left, down = [], _MARGIN, 0
    for name, _ in legend:
        needed = 22 + int(font.getlength(name)) + 14
        if left > _MARGIN and left + needed > width:
            left, down = _MARGIN, down + _TEXT_SIZE + 9
        boxes.append((left, down))
        left += needed
    return boxes
