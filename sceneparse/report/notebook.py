"""How a prediction shows itself in a notebook: a picture of limited size above its classes."""

import base64
import html
import io
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from sceneparse.data.labels import Color, LabelTable
from sceneparse.data.resizing import Resize, resize_image, resize_mask
from sceneparse.errors import one_line
from sceneparse.report.pictures import Picture, overlay

# Pixels of the long side of pictures, and classes that are listed.
_SIDE, _MAX_LISTED = 800, 24
_QUALITY = 85
# Of a class that overlays do not paint, and of pixels without a class.
_UNPAINTED = "repeating-linear-gradient(45deg, #8888 0 2px, transparent 2px 5px)"

# Name, share of the image, and colour; None if overlays do not paint it.
Row = tuple[str, float, Color | None]


def prediction_html(
    image: Picture, labels: NDArray[Any], table: LabelTable, rows: Sequence[Row]
) -> str:
    """Return a figure: image (H, W, 3) and labels (H, W) blended, and a line for each of `rows`.

    Large images are scaled down, names are shortened and escaped, and rows over 24 are counted.
    """
    picture = overlay(*shrunk(image, labels, _SIDE), table, legend="none")
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=_QUALITY)
    uri = f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
    height, width = labels.shape
    entries = [_entry(*row) for row in rows[:_MAX_LISTED]]
    if (more := len(rows) - _MAX_LISTED) > 0:
        entries.append(f"<span>and {more} more</span>")
    return (
        '<figure style="margin:0">'
        f'<img src="{uri}" alt="prediction" style="max-width:100%;height:auto">'
        '<figcaption style="display:flex;flex-wrap:wrap;gap:.2em 1.2em;margin-top:.4em">'
        f"{''.join(entries)}<span>{width}x{height} pixels</span></figcaption></figure>"
    )


def _entry(name: str, share: float, color: Color | None) -> str:
    """Return a coloured box, the name and the share of a class."""
    fill = _UNPAINTED if color is None else "rgb({},{},{})".format(*color)
    shown = one_line(name)
    shown = shown if len(shown) <= 60 else f"{shown[:60]}..."
    box = "display:inline-block;width:.9em;height:.9em;border:1px solid #888;vertical-align:-.1em"
    return (
        f'<span><span style="{box};background:{fill}"></span> '
        f"{html.escape(shown)} {100 * share:.1f}%</span>"
    )


def shrunk(image: Picture, labels: NDArray[Any], side: int) -> tuple[Picture, NDArray[Any]]:
    """Return image (H, W, 3) and labels (H, W), scaled so that no side is over `side` pixels."""
    if max(labels.shape) <= side:
        return image, labels
    size = Resize("long", side).size(*labels.shape)
    return resize_image(image, size), resize_mask(labels, size)
