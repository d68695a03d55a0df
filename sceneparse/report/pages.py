"""Write self-contained HTML pages: templates beside this file, pictures inside the page."""

import base64
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

import sceneparse
from sceneparse.data.labels import Color, LabelTable
from sceneparse.report.pictures import Example, Picture, colorize, without_background
from sceneparse.report.plots import adapt_to_page, draw_file
from sceneparse.report.tables import four_digits
from sceneparse.runtime.shell import command_line
from sceneparse.runtime.versions import describe_device

# Pixels of the long side of pictures with layers: a page of 14 of them has about 3 MB.
_LONGEST = 960
# Errors are told from right pixels by brightness alone, so that no eye needs a colour for it.
_WRONG, _RIGHT = (255, 221, 51), (0, 0, 0)


def write_page(
    template: str, path: Path, values: dict[str, Any], device: torch.device | None = None
) -> None:
    """Fill the template of this name (a .html file beside this one) and write the page.

    `values` may hold "made", see `made_now`; otherwise it is what runs now. `device`: that the
    networks of the page ran on, None if there were none.
    """
    environment = Environment(
        loader=PackageLoader(__package__, ""),
        autoescape=True,  # names of files and classes are data, never markup
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["four_digits"] = four_digits
    page = environment.get_template(template).render({"made": made_now(device), **values})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8", errors="surrogateescape")


def made_now(device: torch.device | None) -> dict[str, str]:
    """Return the command that runs, the version, the time and the device, to end a page."""
    program, *arguments = sys.argv
    ours = Path(program).name in {"sceneparse", "sceneparse.exe", "__main__.py"}
    command = ["sceneparse"] if ours else ["python", program]
    return {
        "command": command_line([*command, *arguments]),
        "version": sceneparse.__version__,
        "time": f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
        "machine": describe_device(device or torch.device("cpu")),
    }


def figure_of_layers(
    caption: str, image: Picture, panels: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """Describe a figure of the macro `layered`: an image (H, W, 3) in panels, each under layers.

    `panels`: by title, the addresses of the layers by name. The reader chooses between "truth",
    "prediction" and "errors"; "mask" is always shown.
    """
    height, width = image.shape[:2]
    return {
        "caption": caption,
        "image": picture_uri(image, longest=_LONGEST),
        "ratio": round(width / height, 4),
        "panels": panels,
    }


def example_layers(example: Example, table: LabelTable) -> dict[str, str]:
    """Encode truth, prediction and errors of an example as layers above its image."""
    known = np.where(example.truth < table.num_classes, 1, table.ignore_index)
    errors = np.where(example.errors(table.num_classes), 0, known)
    labels = {"truth": example.truth, "prediction": example.prediction}
    layers = {
        name: layer_uri(without_background(found, table), table.colors)
        for name, found in labels.items()
    }
    return {**layers, "errors": layer_uri(errors, [_WRONG, _RIGHT])}


def picture_uri(picture: Picture, longest: int) -> str:
    """Encode a picture (H, W, 3), shrunk to `longest` pixels, as the address for an <img>."""
    image = Image.fromarray(picture)
    image.thumbnail((longest, longest))
    return _uri("jpeg", lambda stream: image.save(stream, "JPEG", quality=85))


def layer_uri(labels: NDArray[Any], colors: Sequence[Color], longest: int = _LONGEST) -> str:
    """Encode labels (H, W), shrunk to `longest` pixels, in their colours.

    Ignored pixels are transparent.
    """
    ids = shrunk_labels(labels, longest)
    shown = np.where(ids < len(colors), 255, 0).astype(np.uint8)
    layer = Image.fromarray(np.dstack([colorize(ids, colors), shown]))
    return _uri("png", lambda stream: layer.save(stream, "PNG"))


def shrunk_labels(labels: NDArray[Any], longest: int) -> NDArray[np.int32]:
    """Take the nearest pixels of labels (H, W), so that no side is over `longest` pixels."""
    height, width = labels.shape
    factor = min(longest / max(height, width), 1)
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    small = Image.fromarray(labels.astype(np.int32)).resize(size, Image.Resampling.NEAREST)
    return np.asarray(small)


def figure_uri(figure: Figure) -> str:
    """Encode a plot for a page, light or dark, to which its colours are adapted."""
    adapt_to_page(figure)
    return _uri("png", lambda stream: draw_file(figure, stream, "png"))


def _uri(kind: str, save: Callable[[io.BytesIO], None]) -> str:
    stream = io.BytesIO()
    save(stream)
    return f"data:image/{kind};base64," + base64.b64encode(stream.getvalue()).decode()
