"""Self-contained HTML pages: templates beside this file, pictures inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from sceneparse.data.labels import Color
from sceneparse.report.pictures import Picture, colorize


def write_page(template: str, path: Path, values: dict[str, Any]) -> None:
    """Fill the template of this name (a .html file beside this one) and write the page."""
    text = (resources.files(__package__) / template).read_text(encoding="utf-8")
    # Names of files and classes are data, never markup.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    page = environment.from_string(text).render(values)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8", errors="surrogateescape")


def picture_uri(picture: Picture, longest: int = 320) -> str:
    """Encode a picture, shrunk to `longest` pixels, as the address an <img> shows it from."""
    image = Image.fromarray(picture)
    image.thumbnail((longest, longest))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=85)
    return _uri("image/jpeg", stream)


def layer_uri(labels: NDArray[Any], colors: Sequence[Color], longest: int) -> str:
    """Encode labels (H, W) in their colours, transparent where they are ignored."""
    height, width = labels.shape
    factor = min(longest / max(height, width), 1)
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    small = Image.fromarray(labels.astype(np.int32)).resize(size, Image.Resampling.NEAREST)
    ids = np.asarray(small)
    shown = np.where(ids < len(colors), 255, 0).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(np.dstack([colorize(ids, colors), shown])).save(stream, "PNG")
    return _uri("image/png", stream)


def figure_uri(figure: Figure) -> str:
    """Encode a plot."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120, bbox_inches="tight")
    return _uri("image/png", stream)


def _uri(kind: str, stream: io.BytesIO) -> str:
    return f"data:{kind};base64," + base64.b64encode(stream.getvalue()).decode()
