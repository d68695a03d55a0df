"""Other formats become folders: every mask against pixels painted by hand or by pycocotools."""

from __future__ import annotations

import csv
import importlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sceneparse.cli import convert as convert_command
from sceneparse.cli.command import run
from sceneparse.data import formats
from sceneparse.data.checks.duplicates import (
    Fingerprint,
    distinct,
    duplicate_pairs,
    similar_groups,
)
from sceneparse.data.checks.splits import NEAR_DUPLICATES, SplitPlan, natural_order, plan_splits
from sceneparse.data.datasets import create_dataset
from sceneparse.data.formats.coco_instances import _uncompress_runs
from sceneparse.errors import InputError

RANDOM = np.random.default_rng(3)
HEIGHT, WIDTH = 24, 32


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Four different images a.jpg ... d.jpg."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in "abcd":
        picture = RANDOM.integers(0, 255, (HEIGHT // 4, WIDTH // 4, 3)).astype(np.uint8)
        Image.fromarray(picture).resize((WIDTH, HEIGHT)).save(folder / f"{name}.jpg")
    return folder


def convert(target: Path, *arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        run(
            convert_command.parser(),
            convert_command.main,
            [str(arguments[0]), str(target), *map(str, arguments[1:])],
        )
    return int(stop.value.code or 0)


def masks_of(target: Path, split: str = "all") -> dict[str, np.ndarray]:
    dataset = create_dataset("folder", target, split)
    return {name: np.asarray(mask) for _, mask, name in (dataset[i] for i in range(len(dataset)))}


def some_masks(folder: Path, values: list[int]) -> dict[str, np.ndarray]:
    return {
        path.stem: RANDOM.choice(values, (HEIGHT, WIDTH)).astype(np.uint8)
        for path in folder.iterdir()
    }


def test_voc(images: Path, tmp_path: Path) -> None:
    masks = some_masks(images, [0, 5, 20, 255])
    (tmp_path / "masks").mkdir()
    for name in "abc":  # d has none, as most images of VOC
        picture = Image.fromarray(masks[name], mode="P")
        picture.putpalette([7 * i % 256 for i in range(768)])
        picture.save(tmp_path / f"masks/{name}.png")
    arguments = ["--masks", tmp_path / "masks", "--images", images, "--split", "all=1"]
    assert convert(tmp_path / "out", "voc", *arguments) == 0
    written = masks_of(tmp_path / "out")
    assert set(written) == set("abc")
    for name, mask in written.items():
        assert np.array_equal(mask, masks[name])
    assert (tmp_path / "out/classes.txt").read_text().split()[15] == "person"
    copied = (tmp_path / "out/all/images/a.jpg").read_bytes()
    assert copied == (images / "a.jpg").read_bytes()


@pytest.mark.fault(14)
def test_colors(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    colors = {0: (128, 0, 0), 1: (0, 0, 200), 255: (0, 0, 0)}
    table = tmp_path / "colors.csv"
    table.write_text("name,r,g,b\nroad,128,0,0\nvoid,0,0,0\ntree,0,0,200\n")
    masks = some_masks(images, [0, 1, 255])
    (tmp_path / "masks").mkdir()
    for name, mask in masks.items():
        painted = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        for label, color in colors.items():
            painted[mask == label] = color
        Image.fromarray(painted).save(tmp_path / f"masks/{name}.png")
    arguments = ["--masks", tmp_path / "masks", "--images", images, "--table", table]
    assert convert(tmp_path / "out", "colors", *arguments, "--split", "all=1") == 0
    for name, mask in masks_of(tmp_path / "out").items():
        assert np.array_equal(mask, masks[name])
    assert (tmp_path / "out/colors.txt").read_text() == "128 0 0\n0 0 200\n"

    painted[3, 4] = painted[5, 6] = (1, 2, 3)
    Image.fromarray(painted).save(tmp_path / "masks/a.png")
    assert convert(tmp_path / "again", "colors", *arguments) == 2
    assert "colours outside the table: (1,2,3) (2 px)" in capsys.readouterr().err


def test_pairs(images: Path, tmp_path: Path) -> None:
    masks = some_masks(images, [0, 2, 255])
    (tmp_path / "labels").mkdir()
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "mask"])
        for name, mask in masks.items():
            Image.fromarray(mask).save(tmp_path / f"labels/of {name}.png")
            writer.writerow([f"images/{name}.jpg", f"labels/of {name}.png"])
    arguments = ["--table", tmp_path / "pairs.csv", "--split", "all=1"]
    assert convert(tmp_path / "out", "pairs", *arguments) == 0
    for name, mask in masks_of(tmp_path / "out").items():
        assert np.array_equal(mask, masks[name])


def test_labelme(images: Path, tmp_path: Path) -> None:
    shapes = [
        {"label": "road", "points": [[0, 10], [31, 10], [31, 23], [0, 23]]},
        {"label": "car", "points": [[4, 12], [9, 18]], "shape_type": "rectangle"},
    ]
    for name in "ab":
        content = {
            "imagePath": f"{name}.jpg",
            "imageHeight": HEIGHT,
            "imageWidth": WIDTH,
            "shapes": shapes,
        }
        (images / f"{name}.json").write_text(json.dumps(content))
    arguments = ["--annotations", images, "--split", "all=1"]
    assert convert(tmp_path / "out", "labelme", *arguments) == 0
    assert (tmp_path / "out/classes.txt").read_text().split() == ["background", "car", "road"]
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[10:24] = 2
    expected[12:19, 4:10] = 1
    assert np.array_equal(masks_of(tmp_path / "out")["a"], expected)


CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]


def image_entries() -> list[dict[str, Any]]:
    return [
        {"id": i, "file_name": f"{name}.jpg", "height": HEIGHT, "width": WIDTH}
        for i, name in enumerate("ab")
    ]


def test_coco_panoptic(images: Path, tmp_path: Path) -> None:
    ids = RANDOM.choice([0, 300, 70000], (HEIGHT, WIDTH)).astype(np.uint32)
    (tmp_path / "panoptic").mkdir()
    painted = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8)
    annotations = []
    for i, name in enumerate("ab"):
        Image.fromarray(painted).save(tmp_path / f"panoptic/{name}.png")
        segments = [{"id": 300, "category_id": 7}, {"id": 70000, "category_id": 3}]
        annotations.append({"image_id": i, "file_name": f"{name}.png", "segments_info": segments})
    content = {"images": image_entries(), "annotations": annotations, "categories": CATEGORIES}
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    arguments = ["--annotations", tmp_path / "panoptic.json", "--images", images]
    assert convert(tmp_path / "out", "coco-panoptic", *arguments, "--split", "all=1") == 0
    assert (tmp_path / "out/classes.txt").read_text().split() == ["dog", "cat"]
    expected = np.select([ids == 300, ids == 70000], [1, 0], 255)
    assert np.array_equal(masks_of(tmp_path / "out")["b"], expected)


def test_coco_instances(images: Path, tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    blob = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    blob[3:20, 5:9] = blob[2, 7] = 1
    text = coco.encode(blob)["counts"].decode()
    flat = np.asarray(blob).T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [2]])))
    runs = np.diff(np.concatenate([[0], edges])).tolist()
    assert _uncompress_runs(text) == runs
    square = [[10.0, 4.0, 20.0, 4.0, 20.0, 12.0, 10.0, 12.0]]
    everywhere = [[0.0, 0.0, 31.0, 0.0, 31.0, 23.0, 0.0, 23.0]]
    size = [HEIGHT, WIDTH]
    rows: list[tuple[int, int, int, Any]] = [
        (0, 7, 69, {"counts": text, "size": size}),
        (0, 3, 99, square),
        (1, 3, 768, everywhere),
        (1, 7, 69, {"counts": runs, "size": size}),
    ]
    keys = ("image_id", "category_id", "area", "segmentation")
    annotations = [dict(zip(keys, row, strict=True)) for row in rows]
    content = {"images": image_entries(), "annotations": annotations, "categories": CATEGORIES}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    arguments = ["--annotations", tmp_path / "instances.json", "--images", images]
    assert convert(tmp_path / "out", "coco-instances", *arguments, "--split", "all=1") == 0
    assert (tmp_path / "out/classes.txt").read_text().split() == ["background", "dog", "cat"]
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[4:13, 10:21] = 1
    expected[blob == 1] = 2
    written = masks_of(tmp_path / "out")
    assert np.array_equal(written["a"], expected)
    assert np.array_equal(written["b"], np.where(blob == 1, 2, 1))


def fingerprint(seed: int) -> Fingerprint:
    random = np.random.default_rng(seed)
    return Fingerprint(random.random(256) < 0.5, random.integers(0, 255, (32, 32)).astype(np.uint8))


def frames(numbers: Iterable[int]) -> list[Path]:
    """Return names as cameras number frames; sorted as text, frame10 comes before frame2."""
    return [Path(f"frame{i}.jpg") for i in numbers]


def counts_of(plan: SplitPlan) -> dict[str, int]:
    return dict(Counter(plan.split_of.values()))


def test_splits_keep_duplicates_together_and_shares() -> None:
    paths = [Path(f"{i:03d}.jpg") for i in range(200)]
    fingerprints = [fingerprint(i // 4) for i in range(200)]  # 50 groups of four
    shares = {"train": 0.7, "val": 0.2, "test": 0.1}
    plan = plan_splits(paths, fingerprints, shares, 1, "together")
    splits = plan.split_of
    assert counts_of(plan) == {"train": 140, "val": 40, "test": 20}
    assert "200 of 200 images look like another one, in 50 groups" in plan.notes[0]
    for start in range(0, 200, 4):
        assert len({splits[path] for path in paths[start : start + 4]}) == 1
    assert plan_splits(paths[::-1], fingerprints[::-1], shares, 1, "together") == plan
    assert plan_splits(paths, fingerprints, shares, 2, "together").split_of != splits

    one_of_each = plan_splits(paths[::-1], fingerprints[::-1], shares, 1, "drop")
    assert set(one_of_each.split_of) == set(paths[::4])
    assert one_of_each.dropped == [path for i, path in enumerate(paths) if i % 4]
    assert counts_of(one_of_each) == {"train": 35, "val": 10, "test": 5}
    ignored = plan_splits(paths, None, shares, 1, "keep")
    assert counts_of(ignored) == {"train": 140, "val": 40, "test": 20}
    assert not ignored.dropped
    assert not ignored.notes
    assert any(len({ignored.split_of[p] for p in paths[i : i + 4]}) > 1 for i in range(0, 200, 4))


def test_a_fixed_camera_leaves_no_split_empty() -> None:
    """A group that is too large becomes blocks in order of time; images that differ stay whole."""
    paths = frames(range(1, 31))
    plan = plan_splits(
        paths[::-1], [fingerprint(0)] * 30, {"train": 0.8, "val": 0.2}, 0, "together"
    )
    assert [path for path in paths if plan.split_of[path] == "val"] == frames(range(25, 31))
    assert "30 of 30 images look alike" in plan.notes[0]
    assert (
        "train frame1.jpg to frame24.jpg (24), val frame25.jpg to frame30.jpg (6)" in plan.notes[0]
    )
    # 25 frames of one camera, 25 of another, a scene of its own: only one group is cut.
    two = [fingerprint(i // 25) for i in range(50)] + [fingerprint(9)]
    plan = plan_splits(frames(range(51)), two, {"train": 0.9, "val": 0.1}, 0, "together")
    assert counts_of(plan) == {"train": 46, "val": 5}
    whole = [len({plan.split_of[p] for p in frames(range(s, s + 25))}) == 1 for s in (0, 25)]
    assert sorted(whole) == [False, True]


@pytest.mark.parametrize("rule", NEAR_DUPLICATES)
def test_every_image_gets_a_split_near_its_share(rule: str) -> None:
    """Hold what every plan promises, on random groups of every shape."""
    for seed in range(150):
        random = np.random.default_rng(seed)
        shares = {f"s{k}": float(random.uniform(0.05, 1)) for k in range(random.integers(1, 4))}
        size = int(random.integers(len(shares), 40))
        which = random.integers(0, random.integers(1, size + 1), size)
        paths, prints = frames(range(size)), [fingerprint(int(k)) for k in which]
        if rule == "drop" and len(set(which)) < len(shares):
            continue
        plan = plan_splits(paths, prints, shares, seed, rule)
        shuffled = random.permutation(size)
        again = plan_splits(
            [paths[i] for i in shuffled], [prints[i] for i in shuffled], shares, seed, rule
        )
        assert again == plan
        assert sorted([*plan.split_of, *plan.dropped]) == sorted(paths)
        for name, share in shares.items():
            target = share / sum(shares.values()) * len(plan.split_of)
            got = counts_of(plan).get(name, 0)
            assert max(1, (target - 1) / 2) <= got <= max(2 * (target + 1), 2)


def test_splits_that_cannot_be_are_explained() -> None:
    shares = {"train": 0.8, "val": 0.2}
    assert counts_of(plan_splits(frames(range(2)), None, shares, 0, "keep")) == {
        "train": 1,
        "val": 1,
    }
    with pytest.raises(InputError, match=r"1 images for 2 splits \(train, val\); at least 2 are"):
        plan_splits(frames(range(1)), None, shares, 0, "keep")
    with pytest.raises(InputError, match=r"1 images \(of 30: the others look like them"):
        plan_splits(frames(range(30)), [fingerprint(0)] * 30, shares, 0, "drop")
    with pytest.raises(InputError, match="unknown near_duplicates 'some'"):
        plan_splits(frames(range(30)), None, shares, 0, "some")


def test_groups_of_look_alikes_are_those_of_all_pairs() -> None:
    random = np.random.default_rng(4)
    base = [fingerprint(seed) for seed in range(6)]
    prints = []
    for _ in range(60):  # up to 20 of 256 signs changed, so that some are linked by others alone
        chosen = base[random.integers(6)]
        signs = chosen.signs ^ np.isin(np.arange(256), random.choice(256, 20, replace=False))
        prints.append(Fingerprint(signs, chosen.thumbnail))
    pairs = {
        (i, j)
        for i in range(60)
        for j in range(i)
        if (prints[i].signs != prints[j].signs).sum() <= 26
        and (prints[i].thumbnail == prints[j].thumbnail).all()
    }
    assert {(j, i) for i, j, _ in duplicate_pairs(prints, prints)} == pairs
    groups = {i: {i} for i in range(60)}
    for i, j in pairs:
        joined = groups[i] | groups[j]
        groups.update(dict.fromkeys(joined, joined))
    assert {frozenset(group) for group in similar_groups(prints)} == {
        frozenset(group) for group in groups.values()
    }
    kept = distinct(prints)
    for i in range(60):
        earlier = any((i, j) in pairs for j in kept if j < i)
        assert (i in kept) is not earlier


def test_names_sort_as_people_count() -> None:
    names = ["b1", "frame10", "frame2", "frame02", "frame2b", "a", "10", "9"]
    expected = ["9", "10", "a", "b1", "frame02", "frame2", "frame2b", "frame10"]
    assert sorted(names, key=natural_order) == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["voc"], "voc needs --masks and --images"),
        (["pairs"], "pairs needs --table"),
        (["pairs", "--table", "x.csv", "--masks", "m"], "pairs takes no --masks; its options are"),
        (["pairs", "--table", "nowhere.csv"], "nowhere.csv: cannot be read: No such file"),
        (["pairs", "--table", "x.csv", "--split", "train"], "--split takes e.g. train=0.8"),
        (["labelme", "--annotations", "/nowhere"], "the source holds no images"),
    ],
)
def test_wrong_arguments_are_explained(
    tmp_path: Path, arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(tmp_path / "out", *arguments) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def coco(folder: Path, **changes: Any) -> list[object]:
    """Write instances of one triangle; `changes` of an annotation, or of an image."""
    shape = [[1.0, 1.0, 9.0, 1.0, 9.0, 9.0]]
    annotation = {"image_id": 0, "category_id": 7, "area": 9, "segmentation": shape}
    content = {"images": image_entries(), "annotations": [annotation], "categories": CATEGORIES}
    for key, value in changes.items():
        kind = "annotations" if key in annotation else "categories" if key == "name" else "images"
        content[kind][0][key] = value  # type: ignore[index]
    (folder / "coco.json").write_text(json.dumps(content))
    return ["coco-instances", "--annotations", folder / "coco.json", "--images", folder / "images"]


HARMFUL: dict[str, tuple[Callable[[Path], list[object]], str]] = {
    "path": (lambda f: coco(f, file_name="../../../etc/a.jpg"), "lies outside the data folder"),
    "absolute path": (lambda f: coco(f, file_name="/etc/a.jpg"), "lies outside the data folder"),
    "size": (lambda f: coco(f, height=10**9, width=10**9), "no image is of 1000000000x"),
    "negative size": (lambda f: coco(f, height=-1, width=-5), "no image is of"),
    "size in words": (lambda f: coco(f, height="24"), "its mask cannot be drawn"),
    "far polygon": (lambda f: coco(f, segmentation=[[0, -2e9, 9, 2e9, 5, 5]]), "far outside"),
    "polygon": (lambda f: coco(f, segmentation=[[1e400, 1, 2, 3, 4, 5]]), "far outside"),
    "endless run": (
        lambda f: coco(f, segmentation={"counts": "o" * 10**6}),
        "a run length has too many digits",
    ),
    "runs": (lambda f: coco(f, segmentation={"counts": [-1, WIDTH * HEIGHT + 1]}), "negative"),
    "many pixels": (lambda f: coco(f, segmentation={"counts": [2**60]}), "run lengths of"),
    "category": (lambda f: coco(f, category_id=99), "99 is missing"),
    "image": (lambda f: coco(f, image_id=99), "not valid coco-instances: 99 is missing"),
    "class over lines": (lambda f: coco(f, name="a\nb\x1b[2J"), "printable characters"),
    "class that is none": (lambda f: coco(f, name=["a"]), "printable characters"),
}


@pytest.mark.parametrize("name", HARMFUL)
def test_harmful_annotations_are_one_line(
    name: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, expected = HARMFUL[name]
    start = time.monotonic()
    assert convert(tmp_path / "out", *make(tmp_path), "--split", "all=1") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
    assert time.monotonic() - start < 60
    assert not (tmp_path / "out").exists()


def test_images_elsewhere_must_be_allowed(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """LabelMe's files often lie beside the folder of the images, a CSV as well."""
    (tmp_path / "labelled").mkdir()
    size = {"imageHeight": HEIGHT, "imageWidth": WIDTH}
    shapes = [{"label": "road", "points": [[0, 10], [31, 10], [31, 23]]}]
    for name in "ab":
        content = {"imagePath": f"../images/{name}.jpg", "shapes": shapes, **size}
        (tmp_path / f"labelled/{name}.json").write_text(json.dumps(content))
    arguments = ["labelme", "--annotations", tmp_path / "labelled", "--split", "all=1"]
    assert convert(tmp_path / "out", *arguments) == 2
    assert "'../images/a.jpg' lies outside the data folder" in capsys.readouterr().err
    assert convert(tmp_path / "out", *arguments, "--root", tmp_path) == 0
    assert set(masks_of(tmp_path / "out")) == set("ab")


def test_a_module_is_a_format(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Adding a format touches one file."""
    assert "coco-instances" in formats.FORMATS
    (tmp_path / "copied_formats").mkdir()
    shutil.copy(formats.__file__, tmp_path / "copied_formats/__init__.py")
    new = tmp_path / "copied_formats/new_tool.py"
    new.write_text("def read(masks, root=None): return masks, root")
    monkeypatch.syspath_prepend(tmp_path)
    copied = importlib.import_module("copied_formats")
    assert copied.FORMATS == ("new-tool",)
    assert copied.read_source("new-tool", {"masks": tmp_path, "root": None}) == (tmp_path, None)
    with pytest.raises(InputError, match="unknown format 'voc'; choose one of: new-tool"):
        copied.read_source("voc", {})
