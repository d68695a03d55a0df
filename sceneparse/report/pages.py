"""Write self-contained HTML pages: templates beside this file, pictures inside the page."""

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from sceneparse.data.labels import Color
from sceneparse.report.pictures import Picture, colorize


def write_page(template: str, path: Path, values: dict[str, Any]) -> None:
    """Fill the template of this name (a .html file beside this one) and write the page."""
    environment = Environment(
        loader=PackageLoader(__package__, ""),
        autoescape=True,  # names of files and classes are data, never markup
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    page = environment.get_template(template).render(values)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8", errors="surrogateescape")


def picture_uri(picture: Picture, longest: int = 320) -> str:
    """Encode a picture (H, W, 3), shrunk to `longest` pixels, as the address for an <img>."""
    image = Image.fromarray(picture)
    image.thumbnail((longest, longest))
    return _uri("jpeg", lambda stream: image.save(stream, "JPEG", quality=85))


def layer_uri(labels: NDArray[Any], colors: Sequence[Color], longest: int) -> str:
    """Encode labels (H, W) in their colours; ignored pixels are transparent."""
    height, width = labels.shape
    factor = min(longest / max(height, width), 1)
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    small = Image.fromarray(labels.astype(np.int32)).resize(size, Image.Resampling.NEAREST)
    ids = np.asarray(small)
    shown = np.where(ids < len(colors), 255, 0).astype(np.uint8)
    layer = Image.fromarray(np.dstack([colorize(ids, colors), shown]))
    return _uri("png", lambda stream: layer.save(stream, "PNG"))


def figure_uri(figure: Figure) -> str:
    """Encode a plot."""
    return _uri("png", lambda stream: figure.savefig(stream, dpi=120, bbox_inches="tight"))


def _uri(kind: str, save: Callable[[io.BytesIO], None]) -> str:
    stream = io.BytesIO()
    save(stream)
    return f"data:image/{kind};base64," + base64.b64encode(stream.getvalue()).decode()
