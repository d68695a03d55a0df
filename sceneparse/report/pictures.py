"""Draw label maps: colours, overlays, and grids of image, truth and prediction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sceneparse.data.labels import Color, LabelTable, count_labels
from sceneparse.data.labels.palette import is_background

Picture = NDArray[np.uint8]
_MARGIN = 8
# Width in pixels of the pictures in a grid.
_WIDTH = 360
_TEXT_SIZE = 15
_LINE = _TEXT_SIZE + 9
_INK = (30, 30, 30)
RED = (220, 30, 30)
_BAND = 256
# An outline has a pixel for each of these on the long side.
_PIXELS_PER_LINE = 640


class Example(NamedTuple):
    """One row of a grid: image RGB (H, W, 3), truth and prediction as train ids (H, W)."""

    name: str
    image: Picture
    truth: NDArray[Any]
    prediction: NDArray[Any]

    def errors(self, num_classes: int) -> NDArray[np.bool_]:
        """Return the pixels (H, W) of a class whose prediction differs from the truth."""
        wrong: NDArray[np.bool_] = self.truth != self.prediction
        return wrong & (self.truth < num_classes)


def colorize(labels: NDArray[Any], colors: Sequence[Color]) -> Picture:
    """Paint train ids (H, W) in their colours; ids outside 0..K-1 (ignored) become black."""
    palette = np.zeros((65536, 3), dtype=np.uint8)
    palette[: len(colors)] = colors
    painted: Picture = palette[labels]
    return painted


def overlay(
    image: Picture,
    labels: NDArray[Any],
    table: LabelTable,
    opacity: float = 0.5,
    legend: Literal["seen", "all", "none"] = "seen",
    unpainted: Sequence[bool] | None = None,
) -> Picture:
    """Blend an image with the colours of its labels, and outline their regions.

    Ignored pixels stay, and those of classes that are `unpainted`; None: of transparent_classes.
    Below the picture is a legend of the classes in the image, of all classes, or none.
    """
    height, width = labels.shape
    counts = count_labels(labels, table.num_classes)
    clear = transparent_classes(table) if unpainted is None else list(unpainted)
    named: list[tuple[str, Color | None]] = [
        (label.name, None if is_clear else label.color)
        for label, count, is_clear in zip(table.classes, counts, clear, strict=True)
        if legend == "all" or (legend == "seen" and count)
    ]
    strip = _draw_legend(named, width) if named else np.empty((0, width, 3), dtype=np.uint8)
    result = np.empty((height + len(strip), width, 3), dtype=np.uint8)
    result[height:] = strip
    stays = np.ones(65536, dtype=bool)
    stays[: table.num_classes] = clear
    line, solid = max(round(max(height, width) / _PIXELS_PER_LINE), 1), min(2 * opacity, 1)
    # In bands, so that a huge image needs no second array of its size.
    for top in range(0, height, _BAND):
        part, ids = image[top : top + _BAND], labels[top : top + _BAND]
        colors = colorize(ids, table.colors)
        blended = cv2.addWeighted(part, 1 - opacity, colors, opacity, 0)
        outlined = cv2.addWeighted(part, 1 - solid, colors, solid, 0)
        around = labels[max(top - line, 0) : top + _BAND + line]
        edges = _edges(around, line)[min(top, line) :][: len(ids), :, None]
        painted = np.where(edges, outlined, blended)
        result[top : top + len(part)] = np.where(stays[ids][..., None], part, painted)
    return result


def transparent_classes(table: LabelTable) -> list[bool]:
    """Return which classes overlays do not paint: backgrounds, unless there is nothing else."""
    clear = [is_background(name) for name in table.names]
    return [False] * len(clear) if all(clear) else clear


def without_background(labels: NDArray[Any], table: LabelTable) -> NDArray[Any]:
    """Return labels (H, W) with the pixels of transparent classes ignored."""
    clear = np.flatnonzero(transparent_classes(table))
    return np.where(np.isin(labels, clear), table.ignore_index, labels)


def _edges(labels: NDArray[Any], line: int) -> NDArray[np.bool_]:
    """Return the pixels (H, W) that have another label within `line` pixels in x and y."""
    known = labels if labels.dtype == np.uint8 else labels.astype(np.uint16)
    square = np.ones((2 * line + 1, 2 * line + 1), dtype=np.uint8)
    edges: NDArray[np.bool_] = cv2.dilate(known, square) != cv2.erode(known, square)
    return edges


def side_by_side(pictures: Sequence[Picture]) -> Picture:
    """Put pictures in a row, each at its own size."""
    height = max(picture.shape[0] for picture in pictures)
    filled = [
        np.pad(p, ((0, height - p.shape[0]), (0, 0), (0, 0)), constant_values=255) for p in pictures
    ]
    return np.concatenate(filled, axis=1)


def save_png(picture: Picture, path: Path) -> None:
    """Write an RGB picture (H, W, 3); its folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _, content = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    path.write_bytes(content.tobytes())


def save_labels(
    kind: str,
    path: Path,
    image: Picture,
    labels: NDArray[Any],
    table: LabelTable,
    opacity: float = 0.5,
) -> None:
    """Write labels (H, W) of an image (H, W, 3) as a PNG; its folder is created.

    `kind` index: train ids, with a palette up to 256 classes, as 16-bit grey above; raw: the
    dataset's own label values, for its submission server; color, overlay: RGB pictures. Pixels of
    the ignore index are 255 (65535 in 16 bits), black or not painted.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "color":
        save_png(colorize(labels, table.colors), path)
    elif kind == "overlay":
        save_png(overlay(image, labels, table, opacity), path)
    elif kind == "raw":
        Image.fromarray(table.decode(labels)).save(path)
    else:
        index_picture(labels, table).save(path)


def index_picture(labels: NDArray[Any], table: LabelTable) -> Image.Image:
    """Return train ids (H, W) as a picture with a palette, or of 16-bit grey if they need it."""
    highest = int(labels.max(initial=0))
    if table.num_classes > 256 or highest > 255:
        return Image.fromarray(labels.astype(np.uint16))
    picture = Image.fromarray(labels.astype(np.uint8), mode="P")
    # A file has as many bits as its palette needs; ignored pixels need all of them.
    black = [(0, 0, 0)] * (256 - table.num_classes) if highest >= table.num_classes else []
    picture.putpalette([channel for color in [*table.colors, *black] for channel in color])
    return picture


def example_grid(
    examples: Sequence[Example], names: Sequence[str], colors: Sequence[Color]
) -> Picture:
    """Draw a row per example (image, truth, prediction, errors) above a legend of its classes."""
    total_width = 4 * (_WIDTH + _MARGIN) + _MARGIN
    rows = [_draw_row(example, colors) for example in examples]
    seen = {int(i) for e in examples for i in (*np.unique(e.truth), *np.unique(e.prediction))}
    shown = sorted(index for index in seen if index < len(names))
    legend = Image.fromarray(_draw_legend([(names[i], colors[i]) for i in shown], total_width))
    height = _LINE + sum(row.height + _MARGIN for row in rows)
    canvas = Image.new("RGB", (total_width, height + legend.height), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(_TEXT_SIZE)
    for column, title in enumerate(("image", "truth", "prediction", "wrong pixels")):
        draw.text((_MARGIN + column * (_WIDTH + _MARGIN), 5), title, fill=_INK, font=font)
    top = _LINE
    for row in rows:
        canvas.paste(row, (_MARGIN, top))
        top += row.height + _MARGIN
    canvas.paste(legend, (0, top))
    return np.asarray(canvas)


def _draw_row(example: Example, colors: Sequence[Color]) -> Image.Image:
    wrong = example.errors(len(colors))[..., None]
    pictures = (
        example.image,
        colorize(example.truth, colors),
        colorize(example.prediction, colors),
        np.where(wrong, RED, example.image // 3 + 160).astype(np.uint8),
    )
    height = max(round(example.image.shape[0] * _WIDTH / example.image.shape[1]), 1)
    row = Image.new("RGB", (4 * _WIDTH + 3 * _MARGIN, height), "white")
    for column, picture in enumerate(pictures):
        kind = Image.Resampling.NEAREST if column else Image.Resampling.BILINEAR
        small = Image.fromarray(picture).resize((_WIDTH, height), kind)
        row.paste(small, (column * (_WIDTH + _MARGIN), 0))
    return row


def _draw_legend(legend: Sequence[tuple[str, Color | None]], width: int) -> Picture:
    """Draw a coloured box and a name per entry, in as many lines as needed; a margin if empty.

    A box without a colour is crossed out.
    """
    font = ImageFont.load_default(_TEXT_SIZE)
    legend = [(_fitting(name, font, width - 2 * _MARGIN - 22), color) for name, color in legend]
    places, left, top = [], _MARGIN, 0
    for name, _ in legend:
        needed = 22 + int(font.getlength(name)) + 14
        if left > _MARGIN and left + needed > width:
            left, top = _MARGIN, top + _LINE
        places.append((left, top))
        left += needed
    height = top + _LINE + _MARGIN if legend else _MARGIN
    strip = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(strip)
    for (name, color), (left, top) in zip(legend, places, strict=True):
        box = (left, top + 4, left + 16, top + 20)
        draw.rectangle(box, fill=color, outline=_INK)
        if color is None:
            draw.line((box[0], box[3], box[2], box[1]), fill=_INK)
        draw.text((left + 22, top + 3), name, fill=_INK, font=font)
    return np.asarray(strip)


def _fitting(name: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    """Return a name that is not wider than `width` pixels, shortened by an ellipsis if needed."""
    kept = name
    while kept and font.getlength(f"{kept}..." if kept != name else name) > width:
        kept = kept[:-1]
    return name if kept == name else f"{kept.rstrip(' ,;')}..."
