"""Self-contained HTML pages: templates beside this file, pictures inside the page."""

from __future__ import annotations

import base64
import io
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from PIL import Image

from sceneparse.report.pictures import Picture


def write_page(template: str, path: Path, values: dict[str, Any]) -> None:
    """Fill the template of this name (a .html file beside this one) and write the page."""
    text = (resources.files(__package__) / template).read_text(encoding="utf-8")
    # Names of files and classes are data, never markup.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    page = environment.from_string(text).render(values)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def picture_uri(picture: Picture, longest: int = 320) -> str:
    """Encode a picture, shrunk to `longest` pixels, as the address an <img> shows it from."""
    image = Image.fromarray(picture)
    image.thumbnail((longest, longest))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
