"""Texts changed by their structure: values, keys and cells become odd, and the text stays whole."""

from __future__ import annotations

import copy
import csv
import io
import json
import random
import struct
from collections.abc import Iterator
from typing import Any

import yaml

Tree = Any  # of dicts, lists and plain values
Place = tuple[Any, Any]  # a dict or list, and a key or index in it

_ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3, 255, 2**31, 2**63, 10**30, -(10**400), 0.5, 1e308),
    *(float("nan"), float("inf"), "", " ", "x", "\0", "\n", "\x1b[2J", "\u202e", "x" * 5000),
    *("../x", "/etc/passwd", "a.png", "a.png/..", "none", "1e3", "0-9999999999", "²", "٣"),
    *("timm:resnet18", "resnet18", "hf-hub:a/b", "imagenet", "spnet", "cbam", "upernet"),
    *([], {}, [[]], [0], [0] * 3000, [None], [1.5, 2], [[1, 2], [3]], {"a": 1}, {"": {}}),
)


def _odd(dice: random.Random) -> Tree:
    return copy.deepcopy(dice.choice(_ODD))


def _deep(dice: random.Random) -> Tree:
    tree = _odd(dice)
    for _ in range(dice.choice((5, 50, 300))):
        tree = [tree] if dice.random() < 0.5 else {"a": tree}
    return tree


def _places(tree: Tree) -> Iterator[Place]:
    keys = list(tree) if isinstance(tree, dict) else range(len(tree))
    for key in keys:
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from _places(tree[key])


def changed_tree(tree: Tree, dice: random.Random) -> Tree:
    """Change a few places of a tree."""
    tree = copy.deepcopy(tree)
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        places = list(_places(tree))
        if 0 < len(places) < _MOST_PLACES:
            dice.choice(_CHANGES)(*dice.choice(places), places, dice)
    return tree


def _replace(inside: Tree, key: Any, _: list[Place], dice: random.Random) -> None:
    inside[key] = _odd(dice)


def _nest(inside: Tree, key: Any, _: list[Place], dice: random.Random) -> None:
    inside[key] = _deep(dice)


def _remove(inside: Tree, key: Any, _: list[Place], __: random.Random) -> None:
    del inside[key]


def _rename(inside: Tree, key: Any, _: list[Place], dice: random.Random) -> None:
    if isinstance(inside, dict):
        inside[dice.choice(_KEYS)] = inside.pop(key)


def _copy(inside: Tree, key: Any, places: list[Place], dice: random.Random) -> None:
    other, place = dice.choice(places)
    inside[key] = copy.deepcopy(other[place])


def _scale(inside: Tree, key: Any, _: list[Place], dice: random.Random) -> None:
    if isinstance(inside[key], list):
        # Repeated again and again, a list of lists would fill the memory by itself.
        inside[key] = inside[key][:30] * dice.choice((0, 2, 30))
    elif isinstance(inside[key], int | float):
        inside[key] = inside[key] * dice.choice((-1, 2, 1000, 10**9))


_MOST_PLACES = 20_000
_KEYS = ("", "a", "name", "__class__", "self", "\x1b[2J", "a.b", "x" * 300, "train", "width")
_CHANGES = (_replace, _replace, _replace, _replace, _nest, _remove, _rename, _copy, _scale, _scale)


def changed_json(data: bytes, dice: random.Random) -> bytes:
    """Change the tree of a JSON text."""
    return json.dumps(changed_tree(json.loads(data), dice)).encode()


def changed_yaml(data: bytes, dice: random.Random) -> bytes:
    """Change the tree of a YAML text, and the overrides below it (lines that begin with @)."""
    lines = data.decode().splitlines()
    overrides = [line for line in lines if line.startswith("@")]
    tree = yaml.safe_load("\n".join(line for line in lines if not line.startswith("@")))
    tree = changed_tree(tree, dice)
    for index, line in enumerate(overrides):
        if dice.random() < 0.3:
            value = json.dumps(_odd(dice))
            overrides[index] = line.partition("=")[0] + dice.choice(("=", ".a=", "")) + value
    text = yaml.safe_dump(tree, default_flow_style=dice.random() < 0.5)
    return "\n".join([text, *overrides]).encode("utf-8", "surrogateescape")


def changed_csv(data: bytes, dice: random.Random) -> bytes:
    """Change cells of a CSV text."""
    rows = changed_tree(list(csv.reader(data.decode().splitlines())), dice)
    stream = io.StringIO()
    cells = [row if isinstance(row, list) else [row] for row in rows] if rows else []
    try:
        csv.writer(stream).writerows(cells)
    except csv.Error:  # Python 3.10 writes no NUL
        return data
    return stream.getvalue().encode("utf-8", "surrogateescape")


def changed_lines(data: bytes, dice: random.Random) -> bytes:
    """Change words of the lines of a text."""
    tree = changed_tree([line.split(" ") for line in data.decode("utf-8").split("\n")], dice)
    lines = [line if isinstance(line, list) else [line] for line in tree]
    return "\n".join(" ".join(map(str, line)) for line in lines).encode("utf-8", "surrogateescape")


def changed_header(data: bytes, dice: random.Random) -> bytes:
    """Change the header of a safetensors file; its length stays right."""
    (length,) = struct.unpack_from("<Q", data)
    header = changed_json(data[8 : 8 + length], dice)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]
