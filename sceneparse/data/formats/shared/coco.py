"""The categories of COCO's JSON files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def coco_classes(content: Mapping[str, Any]) -> tuple[list[str], dict[int, int]]:
    """Return the names of the categories by id, and the class index of each category id."""
    categories = sorted(content["categories"], key=lambda category: int(category["id"]))
    names = [category["name"] for category in categories]
    return names, {category["id"]: k for k, category in enumerate(categories)}
