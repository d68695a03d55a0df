"""What COCO's kinds of JSON share: which files, splits, images and categories."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sceneparse.data.formats.shared.classes import class_name_at
from sceneparse.data.formats.shared.image_finder import ImageFinder
from sceneparse.data.formats.shared.outlines import json_files, outline_of
from sceneparse.data.formats.shared.splits import split_in
from sceneparse.errors import InputError
from sceneparse.files import read_json

_KEYS = frozenset({"images", "annotations", "categories"})


@dataclass(frozen=True)
class CocoImage:
    """An image of a COCO file: its entry, path, name in the result and split."""

    entry: Mapping[str, Any]
    path: Path
    name: str
    split: str | None


@dataclass(frozen=True)
class CocoFile:
    """The content of a COCO file. Ids are texts, because some tools write them so."""

    path: Path
    images: Mapping[str, CocoImage]
    annotations: Sequence[Mapping[str, Any]]
    category_names: Mapping[str, str]

    def image_of(self, annotation: Mapping[str, Any]) -> CocoImage:
        """Return the image of an annotation; raises InputError naming the annotation."""
        return self.images[self._key(annotation, "image_id", annotation, self.images)]

    def category_of(self, part: Mapping[str, Any], annotation: Mapping[str, Any]) -> str:
        """Return the category's name of an annotation, or of a part of one."""
        key = self._key(part, "category_id", annotation, self.category_names)
        return self.category_names[key]

    def _key(
        self,
        part: Mapping[str, Any],
        key: str,
        annotation: Mapping[str, Any],
        table: Mapping[str, object],
    ) -> str:
        number = id_text(part.get(key))
        if number not in table:
            raise InputError(
                f"{self.path}: annotation {annotation.get('id', '(without id)')} has {key} "
                f"{part.get(key)}, but there is no such {key.removesuffix('_id')}; the file lists "
                f"{len(table)}"
            )
        return number


def id_text(number: object) -> str:
    """Return an id as text; some tools write 7 as 7.0."""
    return str(int(number) if isinstance(number, float) and number.is_integer() else number)


def coco_paths(source: Path, *, panoptic: bool) -> list[Path]:
    """Return the COCO files of one kind in a source: a file, or those of a folder.

    COCO's files of keypoints repeat the instances of persons; they are only taken alone.
    """
    inner = {
        path: outline_of(path).inner["annotations"]
        for path in json_files(source)
        if outline_of(path).keys >= _KEYS
    }
    found = [path for path, keys in inner.items() if ("segments_info" in keys) == panoptic]
    return [path for path in found if "keypoints" not in inner[path]] or found


def read_coco(source: Path, images: Path | None, *, panoptic: bool) -> Iterator[CocoFile]:
    """Read the COCO files of a source one by one; several files are splits by their names."""
    paths = coco_paths(source, panoptic=panoptic) if source.is_dir() else [source]
    if not paths:
        raise InputError(f"'{source}' holds no COCO file with {', '.join(sorted(_KEYS))}")
    splits = [split_in(path, source) for path in paths]
    if len(paths) > 1 and (None in splits or len(set(splits)) < len(splits)):
        names = ", ".join(str(path) for path in paths[:5])
        raise InputError(
            f"'{source}' holds {len(paths)} COCO files, and their names do not say which splits "
            f"they are: {names}; name them train.json, val.json, test.json, or give one of them"
        )
    for path, split in zip(paths, splits, strict=True):
        yield _read_file(path, source, images, split if len(paths) > 1 else None)


def _read_file(path: Path, source: Path, images: Path | None, split: str | None) -> CocoFile:
    content = read_json(path)
    if not isinstance(content, dict) or not content.keys() >= _KEYS:
        raise InputError(f"{path}: not COCO, which has the keys {', '.join(sorted(_KEYS))}")
    entries = content["images"]
    names = [entry.get("file_name") for entry in entries]
    finder = ImageFinder(_image_folder(path, source, images, names))
    found: dict[str, CocoImage] = {}
    for entry, name in zip(entries, names, strict=True):
        image = finder.find(name, path)
        key = id_text(entry["id"])
        if key in found:
            raise InputError(f"{path}: two images have the id {key}; give each its own")
        found[key] = CocoImage(entry, image, finder.name_of(image), split)
    annotations = content["annotations"]
    return CocoFile(path, found, annotations, _categories(path, content["categories"], annotations))


def _image_folder(path: Path, source: Path, images: Path | None, names: Sequence[object]) -> Path:
    """Return the folder of a file's images: --images, or the first usual place that has them."""
    root = source if source.is_dir() else path.parent
    top = path.parent.parent if path.parent.name.lower().startswith("annotation") else root
    name = str(names[0]).replace("\\", "/") if names else ""
    stem = path.stem.removeprefix("instances_").removeprefix("panoptic_")
    parts = [part for part in (stem, split_in(path, source)) if part is not None]
    if images is not None:
        places = [*(images / part for part in parts), images]
    else:
        places = [top / inner / part for inner in ("", "images") for part in parts]
        places += [path.parent, top / "images", top]
    for place in places:
        if (place / name).is_file() or (place / name.rsplit("/", 1)[-1]).is_file():
            return place
    return images or root


def _categories(
    path: Path, categories: Sequence[Mapping[str, Any]], annotations: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    """Return the name of each category by id, in the order of ids if those are numbers.

    A category that only groups the others, as Roboflow writes it, is dropped.
    """
    parts = [part for a in annotations for part in a.get("segments_info", [a])]
    used = {id_text(part.get("category_id")) for part in parts}
    if all(id_text(category["id"]).isdecimal() for category in categories):
        categories = sorted(categories, key=lambda category: int(category["id"]))
    groups = {category.get("supercategory") for category in categories}
    kept = [
        category
        for category in categories
        if id_text(category["id"]) in used
        or category["name"] not in groups
        or category.get("supercategory") not in {None, "", "none"}
    ]
    names = {
        number: class_name_at(category.get("name"), f"{path}: category {number}")
        for category in kept
        for number in [id_text(category["id"])]
    }
    repeated = [name for name, count in Counter(names.values()).items() if count > 1]
    if repeated:
        ids = ", ".join(key for key, name in names.items() if name == repeated[0])
        raise InputError(f"{path}: categories {ids} have the same name '{repeated[0]}'; rename one")
    return names
