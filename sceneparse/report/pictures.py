"""Label maps as pictures: colours, overlays, and grids of image, truth and prediction."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sceneparse.data.labels import Color, LabelTable, count_labels

if TYPE_CHECKING:  # whoever predicts needs no loader
    from sceneparse.data.loader import Batch

Picture = NDArray[np.uint8]
_MARGIN = 8
_TEXT_SIZE = 15
_LINE = _TEXT_SIZE + 9
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


def overlay(
    image: Picture,
    labels: NDArray[Any],
    colors: Sequence[Color],
    opacity: float = 0.5,
    legend: Sequence[tuple[str, Color]] = (),
) -> Picture:
    """Blend an image with the colours of its labels; ignored pixels stay.

    The names of `legend` stand beside their colours in a strip below.
    """
    height, width = labels.shape
    strip = _legend_strip(legend, width)
    result = np.empty((height + len(strip), width, 3), dtype=np.uint8)
    result[height:] = strip
    # In bands, so that a huge image needs no second one of floats beside it.
    for top in range(0, height, 256):
        part, ids = image[top : top + 256], labels[top : top + 256]
        blended = cv2.addWeighted(part, 1 - opacity, colorize(ids, colors), opacity, 0)
        shown = np.where(ids[..., None] < len(colors), blended, part)
        result[top : top + len(part)] = shown
    return result


def named_overlay(
    image: Picture,
    labels: NDArray[Any],
    table: LabelTable,
    opacity: float = 0.5,
    legend: Literal["seen", "all", "none"] = "seen",
) -> Picture:
    """Make an overlay with the names of the classes that are seen, of all, or of none below."""
    counts = count_labels(labels, table.num_classes)
    named = [
        (label.name, label.color)
        for label, count in zip(table.classes, counts, strict=True)
        if legend == "all" or (legend == "seen" and count)
    ]
    return overlay(image, labels, table.colors, opacity, named)


def _legend_strip(legend: Sequence[tuple[str, Color]], width: int) -> Picture:
    if not legend:
        return np.empty((0, width, 3), dtype=np.uint8)
    strip = Image.new("RGB", (width, _legend_height(legend, width)), "white")
    _draw_legend(strip, legend, 0)
    return np.asarray(strip)


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
    _, content = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    path.write_bytes(content.tobytes())


def save_index_png(labels: NDArray[Any], colors: Sequence[Color], path: Path) -> None:
    """Write ids as a PNG: with the palette up to 256 classes, as 16-bit grey above."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if len(colors) > 256:
        Image.fromarray(labels.astype(np.uint16)).save(path)
        return
    image = Image.fromarray(labels.astype(np.uint8), mode="P")
    image.putpalette([channel for color in colors for channel in color])
    image.save(path)


def save_raw_png(labels: NDArray[Any], table: LabelTable, path: Path) -> None:
    """Write the data set's own label values, as its submission server wants them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(table.decode(labels)).save(path)


def save_labels(
    kind: str,
    path: Path,
    image: Picture,
    labels: NDArray[Any],
    table: LabelTable,
    opacity: float = 0.5,
) -> None:
    """Write labels (H, W) of an image (H, W, 3) as a PNG of a kind: index, raw, color, overlay."""
    if kind == "index":
        save_index_png(labels, table.colors, path)
    elif kind == "raw":
        save_raw_png(labels, table, path)
    elif kind == "color":
        save_png(colorize(labels, table.colors), path)
    else:
        save_png(named_overlay(image, labels, table, opacity), path)


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
    height = _LINE + sum(row.height + _MARGIN for row in rows)
    total_height = height + _legend_height(legend, total_width)
    canvas = Image.new("RGB", (total_width, total_height), "white")
    draw = ImageDraw.Draw(canvas)
    for column, title in enumerate(("image", "truth", "prediction", "wrong pixels")):
        draw.text((_MARGIN + column * (width + _MARGIN), 5), title, fill=_INK, font=font)
    top = _LINE
    for row in rows:
        canvas.paste(row, (_MARGIN, top))
        top += row.height + _MARGIN
    _draw_legend(canvas, legend, top)
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


def _legend_height(legend: Sequence[tuple[str, Color]], width: int) -> int:
    boxes = _legend_boxes(legend, width)
    return boxes[-1][1] + _LINE + _MARGIN if boxes else _MARGIN


def _draw_legend(canvas: Image.Image, legend: Sequence[tuple[str, Color]], top: int) -> None:
    """Draw a coloured box and a name for each entry, from the line `top` on."""
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(_TEXT_SIZE)
    for (name, color), (left, down) in zip(
        legend, _legend_boxes(legend, canvas.width), strict=True
    ):
        box = (left, top + down + 4, left + 16, top + down + 20)
        draw.rectangle(box, fill=color, outline=_INK)
        draw.text((left + 22, top + down + 3), name, fill=_INK, font=font)


def _legend_boxes(
    legend: Sequence[tuple[str, Color]],
    width: int,
) -> list[tuple[int, int]]:
    """Place the legend's entries one after the other, in as many lines as they need."""
    font = ImageFont.load_default(_TEXT_SIZE)
    boxes, left, down = [], _MARGIN, 0
    for name, _ in legend:
        needed = 22 + int(font.getlength(name)) + 14
        if left > _MARGIN and left + needed > width:
            left, down = _MARGIN, down + _LINE
        boxes.append((left, down))
        left += needed
    return boxes
