"""`sceneparse convert`: recognising, splits, options, and writing all or nothing."""

from __future__ import annotations

import importlib
import os
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePath

import cv2
import numpy as np
import pytest
from PIL import Image

from sceneparse.data import formats
from sceneparse.data.checks.duplicates import (
    Fingerprint,
    distinct,
    nearest_duplicates,
    similar_groups,
)
from sceneparse.data.checks.splits import NEAR_DUPLICATES, SplitPlan, natural_order, plan_splits
from sceneparse.data.formats.shared.image_finder import ImageFinder
from sceneparse.errors import InputError
from sceneparse.runs.folder import validate_folder
from tests.conversion import HEIGHT, WIDTH, classes_of, convert, masks_of, save_images
from tests.test_format_coco import TRIANGLE, annotate, drawn, write_coco


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
    ignored = plan_splits(paths, (), shares, 1, "keep")
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
    assert counts_of(plan_splits(frames(range(2)), (), shares, 0, "keep")) == {
        "train": 1,
        "val": 1,
    }
    with pytest.raises(InputError, match=r"1 images for 2 splits \(train, val\); at least 2 are"):
        plan_splits(frames(range(1)), (), shares, 0, "keep")
    with pytest.raises(InputError, match=r"1 images \(of 30: the others look like them"):
        plan_splits(frames(range(30)), [fingerprint(0)] * 30, shares, 0, "drop")
    with pytest.raises(InputError, match="unknown near_duplicates 'some'"):
        plan_splits(frames(range(30)), (), shares, 0, "some")


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
    found = {(i, j) for i, j, _ in nearest_duplicates(prints[:30], prints[30:])}
    assert {j for _, j in found} == {i - 30 for i, j in pairs if j < 30 <= i}
    assert all((j + 30, i) in pairs for i, j in found)
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


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A COCO file beside its two images."""
    save_images(tmp_path / "source", ["a.jpg", "b.jpg"])
    return write_coco(tmp_path / "source/c.json", [annotate([TRIANGLE])])


def test_what_is_printed_and_written(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "new/out"
    assert convert(source.parent, target, "--split", "train=1") == 0
    output = capsys.readouterr().out
    count, total = int(drawn([TRIANGLE]).sum()), 2 * HEIGHT * WIDTH
    assert "format       coco-instances (c.json lists images, annotations and categor" in output
    assert "converted    2 images (train 2)" in output
    assert f"  2 cat        {count:>13,} px {100 * count / total:7.3f}%" in output
    assert "skipped      nothing" in output
    assert f"sceneparse check {target} --splits train" in output
    assert (target / "train/images/a.jpg").read_bytes() == (source.parent / "a.jpg").read_bytes()
    assert cv2.imread(str(target / "train/labels/a.png"), cv2.IMREAD_UNCHANGED).dtype == np.uint8


def test_links_take_the_place_of_copies(source: Path, tmp_path: Path) -> None:
    assert convert(source, tmp_path / "out", "--split", "all=1", "--link") == 0
    link = tmp_path / "out/all/images/a.jpg"
    assert link.samefile(source.with_name("a.jpg"))
    assert masks_of(tmp_path / "out")["a"].any()


def test_a_failed_conversion_leaves_nothing_and_can_be_repeated(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out"
    (target.with_name(".out.partial") / "train").mkdir(parents=True)  # of a killed conversion
    whole = (source.with_name("b.jpg")).read_bytes()
    source.with_name("b.jpg").write_bytes(b"no image")
    assert convert(source, target, "--split", "all=1") == 2
    assert "b.jpg: not an image file" in capsys.readouterr().err
    assert not list(tmp_path.glob("*out*"))
    source.with_name("b.jpg").write_bytes(whole)
    assert convert(source, target, "--split", "all=1") == 0
    assert convert(source, target, "--split", "all=1") == 2
    assert "exists and is no empty folder" in capsys.readouterr().err


def test_files_that_systems_put_into_folders_do_not_fill_them(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    for name in (".DS_Store", "Thumbs.db", "._x", "notes.txt"):
        (target / name).write_bytes(b"")
    assert convert(source, target, "--split", "all=1") == 2
    with pytest.raises(InputError, match="not a run folder"):
        validate_folder(target, resume=False, overwrite=False)
    (target / "notes.txt").unlink()
    validate_folder(target, resume=False, overwrite=False)
    assert convert(source, target, "--split", "all=1") == 0
    assert sorted(path.name for path in target.iterdir()) == ["all", "classes.txt", "colors.txt"]


def test_a_mask_must_fit_the_upright_image(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Phones store photos sideways and say so in EXIF; every program shows them upright."""
    exif = Image.Exif()
    exif[274] = 6
    picture = Image.fromarray(np.zeros((WIDTH, HEIGHT, 3), np.uint8))
    picture.save(source.with_name("a.jpg"), exif=exif)
    assert convert(source, tmp_path / "out", "--split", "all=1") == 0
    assert masks_of(tmp_path / "out")["a"].shape == (HEIGHT, WIDTH)
    picture.transpose(Image.Transpose.ROTATE_90).save(source.with_name("a.jpg"), exif=exif)
    assert convert(source, tmp_path / "no", "--split", "all=1") == 2
    assert "a.jpg is 24x32, its mask 32x24; the image is turned by EXIF" in capsys.readouterr().err


def test_splits_of_the_source_are_kept_unless_others_are_asked_for(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = source.parent
    for split in ("train", "val"):
        (root / split).mkdir()
        shutil.copy(root / "a.jpg", root / split)
        shutil.copy(root / "b.jpg", root / split)
        write_coco(root / f"{split}.json", [annotate([TRIANGLE], image=int(split == "val"))])
    source.unlink()
    assert convert(root, tmp_path / "own") == 0
    assert masks_of(tmp_path / "own", "val")["b"].any()
    assert convert(root, tmp_path / "no", "--near-duplicates", "drop", "--seed", 1) == 2
    assert "--seed and --near-duplicates would change nothing" in capsys.readouterr().err
    assert convert(root, tmp_path / "one", "--split", "all=1") == 0
    assert set(masks_of(tmp_path / "one")) == {"train/a", "train/b", "val/a", "val/b"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere.json"], "'nowhere.json' does not exist"),
        (["SOURCE", "--as", "coco"], "choose from"),
        (["SOURCE", "--as", "voc"], "give the folder of images with --images"),
        (["SOURCE", "--unknown-colors", "nearest"], "--unknown-colors would change nothing"),
        (["SOURCE", "--split", "train"], "e.g. train=0.8 val=0.2; got 'train'"),
        (["SOURCE", "--split", "../a=1"], "--split takes different names"),
        (["SOURCE", "--split", "val=1", "Val=2"], "--split takes different names"),
        (["SOURCE", "--split", "a=1", "--seed", "3"], "--seed would change nothing"),
        (["SOURCE", "--split", "a=1", "--near-duplicates", "keep"], "would change nothing: all"),
        (["SOURCE", "--seed", "-1"], "--seed: must be 0 or more"),
        (["x" * 300], "does not exist"),
        (["SOURCE", "--near-duplicates", "some"], "unknown near_duplicates 'some'"),
        (["SOURCE", "--classes", "nowhere.txt"], "nowhere.txt: cannot be read"),
        (["SOURCE", "--images", "nowhere"], "'nowhere' of the images does not exist"),
        (["SOURCE", "--split", "a=1", "b=1", "c=1"], "2 images for 3 splits"),
        (["tests"], "'tests' is of no known format"),
        (["ARCHIVE"], "x.zip' is an archive; unpack it and give the folder"),
    ],
)
def test_wrong_arguments_are_explained(
    source: Path,
    tmp_path: Path,
    arguments: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    archive = source.with_name("x.zip")
    archive.touch()
    places = {"SOURCE": str(source), "ARCHIVE": str(archive)}
    first, *rest = (places.get(given, given) for given in arguments)
    assert convert(first, tmp_path / "out", *rest) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
    assert not list(tmp_path.glob("*out*"))


def test_classes_of_a_file_must_make_sense(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = tmp_path / "names.txt"
    for text, expected in (
        ("", "no class; write one name per line"),
        ("cat\ncat \n", "class 'cat' occurs twice"),
        ("cat\ndog = bird\n", "'= bird' names no class"),
        ("cat,1,2,3\ndog\n", "no colour for dog; give all one, or none"),
    ):
        names.write_text(text)
        assert convert(source, tmp_path / "out", "--classes", names) == 2
        assert expected in capsys.readouterr().err
    names.write_text("cat, 255, 0, 9\ndog, 1, 2, 3\nbackground, 0, 0, 0\n")
    assert convert(source, tmp_path / "out", "--classes", names, "--split", "all=1") == 0
    assert (tmp_path / "out/colors.txt").read_text() == "255 0 9\n1 2 3\n0 0 0\n"
    assert classes_of(tmp_path / "out") == ["cat", "dog", "background"]


def test_a_module_is_a_format(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Adding a format touches one file."""
    assert "coco-instances" in formats.FORMATS
    (tmp_path / "copied_formats").mkdir()
    shutil.copy(formats.__file__, tmp_path / "copied_formats/__init__.py")
    for name in ("new_tool", "old_tool"):
        (tmp_path / f"copied_formats/{name}.py").write_text(
            f"def recognise(source): return '{name}'\n"
            "def read(source, *, images=None): return source, images\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    copied = importlib.import_module("copied_formats")
    assert set(copied.FORMATS) == {"new-tool", "old-tool"}
    assert copied.FORMATS["new-tool"].read(tmp_path, {"images": 5}) == (tmp_path, 5)
    with pytest.raises(InputError, match="unknown format 'voc'; choose one of: new-tool, old-tool"):
        copied.find_format(tmp_path, "voc")
    with pytest.raises(InputError, match=r"several formats: new-tool \(new_tool\); old-tool \(o"):
        copied.find_format(tmp_path)


@pytest.mark.parametrize("name", formats.FORMATS)
def test_no_format_recognises_what_it_does_not_know(name: str, tmp_path: Path) -> None:
    save_images(tmp_path / "photos", ["a.jpg", "b.png"])
    (tmp_path / "notes.txt").write_text("to do\n")
    (tmp_path / "photos/x.json").write_text('{"damaged"')
    (tmp_path / "photos/y.xml").write_text("<a>")
    for place in (tmp_path, *tmp_path.rglob("*")):
        assert formats.FORMATS[name].recognise(place) is None
    assert set(formats.FORMATS[name].options) <= {"images", "classes", "unknown_colors"}
    assert formats.FORMATS[name].description
    page = Path(__file__).parents[1] / "docs/how-to/data.md"
    assert f"\n| `{name}` | " in page.read_text(encoding="utf-8")


def test_no_file_of_others_stops_the_recognition(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = save_images(tmp_path / "source", ["photos/a.jpg"])
    names = (
        "x.json",
        "meta.json",
        "c.xml",
        "data.yaml",
        "labels/t.txt",
        "_classes.csv",
        "colors.csv",
    )
    for name in names:
        place = root / name
        place.mkdir(parents=True)
        os.mkfifo(place / name.rsplit("/", 1)[-1])  # opening a pipe would wait for ever
        (root / f"binary {place.name}").write_bytes(bytes(range(256)) * 20)
        (root / f"lost {place.name}").symlink_to("nowhere")
    (root / "itself").symlink_to("itself")
    (root / "above").symlink_to(root)
    for place in (*root.rglob("*"), root):
        assert convert(place, tmp_path / "out") == 2
        (text,) = capsys.readouterr().err.splitlines()
        assert "of no known format" in text or "does not exist" in text or "not UTF-8" in text


def test_the_surest_of_several_images_is_found(tmp_path: Path) -> None:
    """The whole path before the name alone, and a name with suffix before one without."""
    save_images(tmp_path, ["a.png", "x/a.png", "x/b.png", "y/b.png", "c.png", "c.png.jpg"])
    finder = ImageFinder(tmp_path)
    for name, found in {
        "a.png": "a.png",
        "a": "a.png",
        "x\\a": "x/a.png",
        "c.png": "c.png",
    }.items():
        assert finder.find(name, "annotation") == tmp_path / found
    assert finder.find("b.png", "annotation", PurePath("y")) == tmp_path / "y/b.png"
    with pytest.raises(InputError, match=r"annotation: image 'b' may be .*x/b.png, .*y/b.png"):
        finder.find("b", "annotation")
