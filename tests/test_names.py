"""Names that Windows refuses, twins by case, its paths and texts, and disks without links."""

from __future__ import annotations

import ast
import csv
import json
import ntpath
import shutil
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import unquote

import numpy as np
import pytest
import yaml
from conftest import MakeRun, RunCommand
from conversion import convert, masks_of, save_images
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_train_seg import call

from sceneparse.auto.intake import take_in
from sceneparse.cli import evaluate as evaluate_command
from sceneparse.cli import predict as predict_command
from sceneparse.config.loading import load_config
from sceneparse.config.segmentation import SegConfig
from sceneparse.data import file_names
from sceneparse.data.cache import cache_folder
from sceneparse.data.datasets import create_dataset
from sceneparse.data.formats import find_format
from sceneparse.errors import InputError, reason_of
from sceneparse.inference.inputs import find_sources, whole_name
from sceneparse.runtime import shell
from sceneparse.scoring.matching import match_files
from sceneparse.studies.segmentation import read_study
from tests.conftest import ROOT

# What Linux allows -> what every system does.
ODD = {
    "10:00:07": "10%3A00%3A07",
    "con": "%63on",
    "nul.front": "%6Eul.front",
    'a "b" <c>?*|': "a %22b%22 %3Cc%3E%3F%2A%7C",
    "left\\right": "left%5Cright",
    "day ./Aux": "day %2E/%41ux",
    "plain.name-1 (2)": "plain.name-1 (2)",
    "ends with a dot.": "ends with a dot.",  # before a suffix, which is no end
}


@pytest.mark.parametrize("name", ODD)
def test_odd_names_are_encoded(name: str) -> None:
    assert file_names.storable_stem(name) == ODD[name]
    assert unquote(file_names.storable_stem(name)) == name


@given(st.text(st.sampled_from('aC.:%\\/ "oNcP1\x07é²³|*LT$'), max_size=9))
def test_encoded_names_are_names_for_windows(name: str) -> None:
    name = name.lstrip("/")
    stored = file_names.storable(name)
    assert file_names.storable(stored) == stored
    assert unquote(stored) == unquote(name)
    assert PureWindowsPath(stored).parts == PurePosixPath(stored).parts  # no drive among them
    for part in stored.split("/"):
        assert part in {".", ".."} or part == part.rstrip(". ")
        assert not PureWindowsPath(part).is_reserved()
        if part not in {"", ".", ".."} and hasattr(ntpath, "isreserved"):  # since Python 3.13
            assert not ntpath.isreserved(part)


def test_devices_are_known() -> None:
    for name in ("CON", "prn.txt", "Aux.tar.gz", "nul ", "COM1", "lpt9.x", "COM\u00b2", "CONIN$"):
        assert PureWindowsPath(name).is_reserved() or name == "nul "
        assert file_names.storable(name) != name
    for name in ("CONSOLE", "com", "COM10", "xcon", "con_1", "lpt"):
        assert file_names.storable(name) == name


@pytest.fixture
def odd_data(scenes: Path, tmp_path: Path) -> Path:
    """A dataset in the folder layout whose images have odd names."""
    root = tmp_path / "odd"
    for kind, suffix in (("images", ".jpg"), ("labels", ".png")):
        found = sorted((scenes / "train" / kind).iterdir())
        for source, name in zip(found, ODD, strict=False):
            path = root / "val" / kind / f"{name}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, path)
    shutil.copy(scenes / "classes.txt", root)
    return root


def names_below(folder: Path) -> set[str]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).with_suffix("").as_posix() for path in found}


def test_results_have_names_for_every_system(
    make_run: MakeRun, odd_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, output = make_run(root=odd_data), tmp_path / "out"
    images = odd_data / "val/images"
    kinds = ["index", "probabilities"]
    assert call(predict_command, run, images, "--output", output, "--save", *kinds) == 0
    assert "6 names that Windows refuses are written encoded: " in capsys.readouterr().out
    for kind in kinds:
        assert names_below(output / kind) == set(ODD.values())
    assert set(json.loads((output / "shares.json").read_text())) == set(ODD)
    masks = {name: odd_data / "val/labels" / f"{name}.png" for name in ODD}
    matches = match_files(output / "index", masks)
    assert {match.truth for match in matches.matches} == set(masks.values())
    # A second run does not take its own results for images.
    assert call(predict_command, run, output, images, "--output", output) == 0

    assert call(evaluate_command, run, "--workers", 0, "--save", "index") == 0
    assert "6 names that Windows refuses" in capsys.readouterr().out
    assert names_below(run / "eval_val/index") == set(ODD.values())
    with (run / "eval_val/images.csv").open(encoding="utf-8", newline="") as file:
        assert {row["image"] for row in csv.DictReader(file)} == set(ODD)


@pytest.mark.parametrize("way", ["convert", "auto"])
def test_datasets_have_names_for_every_system(
    odd_data: Path, tmp_path: Path, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "new/data"
    if way == "convert":
        source, options = odd_data / "val", ["--split", "train=0.5", "val=0.5"]
        assert convert(source, target, "--classes", odd_data / "classes.txt", *options) == 0
        said = capsys.readouterr().out
    else:
        table = odd_data / "classes.txt"
        intake = take_in(odd_data / "val", target.parent, val=None, classes=table)
        said = " ".join(intake.notes)
    assert "6 names that Windows refuses are written encoded: " in said
    found = {split: masks_of(target, split) for split in ("train", "val")}
    written = {name: mask for masks in found.values() for name, mask in masks.items()}
    expected = {ODD[name]: mask for name, mask in masks_of(odd_data, "val").items()}
    assert written.keys() == expected.keys()
    assert all(np.array_equal(written[name], expected[name]) for name in expected)


def test_folders_that_a_user_names_are_refused(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(scenes / "val", tmp_path / "out", "--split", "train=1", "con=1") == 2
    assert "--split 'con' names a folder, and Windows refuses it" in capsys.readouterr().err
    study = tmp_path / "study.yaml"
    for rows, problem in (
        (["fcn", "aux.1"], "row 'aux.1' names a folder, and Windows refuses it"),
        (["fcn", "FCN"], "rows must differ in more than capitals"),
    ):
        content = {"config": "quickstart", "reference": "fcn", "rows": {row: {} for row in rows}}
        study.write_text(yaml.safe_dump(content), "utf-8")
        with pytest.raises(InputError, match=problem):
            read_study(study, [])


@pytest.fixture
def one_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """Act as on a disk that does not tell A from a."""
    for module in ("data.file_names", "inference.inputs", "data.formats.shared.source"):
        monkeypatch.setattr(f"sceneparse.{module}.key_of_names", lambda _: str.casefold)


@pytest.mark.usefixtures("one_case")
def test_twins_by_case_get_files_of_their_own(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = save_images(tmp_path / "photos", ["A.jpg", "a.png", "b/C.png", "c.png"])
    for path in sorted(photos.rglob("*.*")):
        mask = tmp_path / "masks" / path.relative_to(photos).parent / f"{path.name}.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.eye(24, 32, dtype=np.uint8)).save(mask)
    assert [s.name for s in find_sources([str(photos)])] == ["A.jpg", "a.png", "b/C", "c"]
    pairs = tmp_path / "pairs.csv"
    rows = [f"photos/{name},masks/{name}.png" for name in ("A.jpg", "a.png", "c.png")]
    pairs.write_text("\n".join(["image,mask", *rows]), "utf-8")
    assert convert(pairs, tmp_path / "new", "--split", "all=1") == 2
    assert "1 names of images occur twice" in capsys.readouterr().err

    save_images(tmp_path / "photos", ["a.jpg"])
    run = make_run()
    assert call(predict_command, run, photos, "--output", tmp_path / "out") == 2
    assert "would both be written to" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_disks_that_do_not_tell_capitals_are_found_out(tmp_path: Path) -> None:
    (tmp_path / "Data/7").mkdir(parents=True)
    places = [tmp_path / "Data/7", tmp_path / "Data/new/deep"]
    assert [file_names.key_of_names(place)("A") for place in places] == ["A", "A"]
    (tmp_path / "dATA").mkdir()  # another folder, not the same by another name
    assert file_names.key_of_names(places[0])("A") == "A"
    (tmp_path / "dATA").rmdir()
    (tmp_path / "dATA").symlink_to(tmp_path / "Data")
    assert [file_names.key_of_names(place)("A") for place in places] == ["a", "a"]


def test_names_that_are_too_long_are_refused_first(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = save_images(tmp_path / "photos", [f"{'ä' * 125}:.png"])
    output = tmp_path / "out"
    assert call(predict_command, make_run(), photos, "--output", output) == 2
    assert "would have a name of 257 bytes, 255 are allowed" in capsys.readouterr().err
    assert not output.exists()


def test_whole_paths_name_drives_and_servers() -> None:
    assert whole_name(PurePosixPath("/data/a/x.jpg")) == "data/a/x.jpg"
    assert whole_name(PureWindowsPath("D:\\data\\x.jpg")) == "D/data/x.jpg"
    assert whole_name(PureWindowsPath("\\\\server\\share\\a\\x.jpg")) == "server/share/a/x.jpg"


LISTS = {"utf-8-sig": "\r\n", "utf-16": "\r\n", "utf-8": "\n"}


def write_as(path: Path, text: str, encoding: str) -> Path:
    """Write a text as a program of Windows does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.replace("\n", LISTS[encoding]).encode(encoding))
    return path


@pytest.mark.parametrize("encoding", LISTS)
def test_texts_and_paths_of_windows_are_read(scenes: Path, tmp_path: Path, encoding: str) -> None:
    root = shutil.copytree(scenes, tmp_path / "scenes")
    plain = create_dataset("folder", root, "val")
    for name in ("classes.txt", "colors.txt"):
        write_as(root / name, (root / name).read_text(encoding="utf-8"), encoding)
    rows = [(pair.image.relative_to(root), pair.mask.relative_to(root)) for pair in plain.pairs]
    lines = "\n".join("\t".join(str(PureWindowsPath(path)) for path in row) for row in rows)
    write_as(root / "lists/mine.txt", lines, encoding)
    listed = create_dataset("folder", f"{root}", "lists\\mine.txt")
    assert [pair.image for pair in listed.pairs] == [pair.image for pair in plain.pairs]
    assert listed.table == plain.table
    settings = f"data:\n  root: {root}\n  val_split: lists\\mine.txt\noutput: runs\\new\n"
    config = load_config(write_as(tmp_path / "c.yaml", settings, encoding), [], SegConfig)
    assert config.output == "runs/new"
    assert config.data.root == str(root)


@pytest.mark.parametrize(
    "path", ["C:\\data\\a.png", "c:/data/a.png", "\\\\server\\share\\a.png", "..\\a.png"]
)
def test_paths_of_another_computer_are_refused(scenes: Path, tmp_path: Path, path: str) -> None:
    root = shutil.copytree(scenes, tmp_path / "scenes")
    (root / "mine.txt").write_text(f"{path}\ttrain/labels/a.png\n", "utf-8")
    with pytest.raises(InputError, match=r"path of a Windows computer|lies outside"):
        create_dataset("folder", root, "mine.txt")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('"C:\\Users\\ann"', "write paths with /"),
        ('"data\\new\\table"', r"in double quotes, YAML reads \\n"),
    ],
)
def test_backslashes_in_double_quotes_are_explained(
    tmp_path: Path, text: str, problem: str
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"data:\n  root: {text}\n", "utf-8")
    with pytest.raises(InputError, match=problem):
        load_config(path, [], SegConfig)


SHAPE = {"label": "road", "shape_type": "rectangle", "points": [[2, 2], [20, 12]]}
SQUARE = {"x": 10, "y": 10, "width": 50, "height": 50, "rectanglelabels": ["road"]}


def coco(image: str) -> object:
    box = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[2, 2, 20, 2, 20, 12]]}
    entry = {"id": 1, "file_name": image, "height": 24, "width": 32}
    return {"images": [entry], "annotations": [box], "categories": [{"id": 1, "name": "road"}]}


def labelme(image: str) -> object:
    return {"shapes": [SHAPE], "imagePath": image, "imageHeight": 24, "imageWidth": 32}


def label_studio(image: str) -> object:
    size = {"original_width": 32, "original_height": 24}
    result = {"id": "r", "type": "rectanglelabels", "value": SQUARE, **size}
    return [{"id": 1, "data": {"image": image}, "annotations": [{"result": [result]}]}]


def via(image: str) -> object:
    shape = {"name": "rect", "x": 2, "y": 2, "width": 9, "height": 9}
    region = {"shape_attributes": shape, "region_attributes": {"class": "road"}}
    return {f"{image}1": {"filename": image, "size": 1, "regions": [region]}}


@pytest.mark.parametrize("encoding", LISTS)
@pytest.mark.parametrize("annotate", [coco, labelme, label_studio, via])
@pytest.mark.parametrize(
    "image",
    [
        "sub\\a.png",
        "C:\\Users\\Ann\\photos\\sub\\a.png",
        "..\\photos\\sub\\a.png",
        "sub\\..\\a.png",
    ],
)
def test_annotations_of_windows_find_their_images(
    tmp_path: Path, annotate: Callable[[str], object], image: str, encoding: str
) -> None:
    photos = save_images(tmp_path / "photos", ["sub/a.png", "b.png"])
    text = json.dumps(annotate(image))
    source = write_as(tmp_path / "made/annotations.json", text, encoding)
    kind, _ = find_format(source)
    found = kind.read(source, {"images": photos})
    assert [item.image for item in found.items] == [photos / "sub/a.png"]
    assert found.items[0].mask().any()


def missing(*_: object) -> None:
    raise NotImplementedError("not on this system")  # what pathlib says


def refused(*_: object) -> None:
    raise OSError(1314, "A required privilege is not held by the client")


def without_hard_links(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "hardlink_to", missing)


def without_any_links(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "hardlink_to", missing)
    monkeypatch.setattr(Path, "symlink_to", missing)


def with_forbidden_links(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "hardlink_to", refused)
    monkeypatch.setattr(Path, "symlink_to", refused)


@pytest.mark.parametrize("hide", [without_hard_links, without_any_links, with_forbidden_links])
def test_images_are_copied_where_links_do_not_exist(
    scenes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    hide: Callable[[pytest.MonkeyPatch], None],
) -> None:
    options = ["--classes", scenes / "classes.txt", "--split", "train=0.6", "val=0.4"]
    assert convert(scenes / "train", tmp_path / "copied", *options) == 0
    capsys.readouterr()
    hide(monkeypatch)
    (tmp_path / "linked").mkdir()  # an empty folder is taken
    assert convert(scenes / "train", tmp_path / "linked", *options, "--link") == 0
    files = sorted(path for path in (tmp_path / "copied").rglob("*") if path.is_file())
    for path in files:
        other = tmp_path / "linked" / path.relative_to(tmp_path / "copied")
        assert other.read_bytes() == path.read_bytes()
    said = capsys.readouterr().out
    size = sum(path.stat().st_size for path in (scenes / "train/images").iterdir()) / 2**20
    note = f"note         12 images are copied ({size:,.1f} MB), because links cannot be made there"
    assert (note in said) == (hide is not without_hard_links)


def test_console_that_lacks_signs_shows_numbers(
    tmp_path: Path, run_command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")
    target = tmp_path / "д→"
    done = run_command("scenes", target, "--train", 1, "--val", 1)
    assert done.returncode == 0, done.stderr
    assert "\\u0434\\u2192" in done.stdout
    assert target.is_dir()


def test_words_are_quoted_for_the_shell_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [
        "sceneparse",
        "predict",
        "runs\\my run",
        'a "b" c',
        "end \\",
        "x=é y",
        "\\\\srv\\a b\\",
    ]
    monkeypatch.setattr(sys, "platform", "win32")
    assert shell.command_line(words) == subprocess.list2cmdline(words)
    assert [shell.quoted(word) for word in ("a&b", "50%", "")] == ['"a&b"', '"50%"', '""']
    monkeypatch.setattr(sys, "platform", "linux")
    assert shell.command_line(["predict", "my run", "it's"]) == "predict 'my run' 'it'\"'\"'s'"


def test_caches_are_where_users_look_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.setenv("LOCALAPPDATA", "/c/ann/Local")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    places = {
        "linux": "/home/ann/.cache",
        "darwin": "/home/ann/Library/Caches",
        "win32": "/c/ann/Local",
    }
    for platform, place in places.items():
        monkeypatch.setattr(sys, "platform", platform)
        assert cache_folder() == Path(place) / "sceneparse"
    monkeypatch.setenv("XDG_CACHE_HOME", "/big")
    assert cache_folder() == Path("/big/sceneparse")


def test_long_paths_are_explained_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    error = FileNotFoundError(2, "No such file or directory", "/" + "x/" * 150)
    assert reason_of(error) == "No such file or directory"
    monkeypatch.setattr(sys, "platform", "win32")
    assert "longer than 259 characters, which Windows does not allow" in reason_of(error)


def test_lists_on_standard_input_may_begin_with_a_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", StringIO("\ufeffa b.jpg\r\n\r\nc.jpg\r\n"))
    assert predict_command.split_inputs(["-"]) == ([], ["a b.jpg", "c.jpg"])


def encodings_missing_in(source: str) -> list[int]:
    """Return the lines that open a text without naming its encoding."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [node.lineno for node in calls if opens_text(node) and not names_encoding(node)]


def opens_text(node: ast.Call) -> bool:
    is_method = isinstance(node.func, ast.Attribute)
    name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
    if name in {"read_text", "write_text"}:
        return is_method and ast.unparse(node.func) != "atomic.write_text"  # one of our own
    modes = [a.value for a in node.args if isinstance(a, ast.Constant)]
    modes = [mode for mode in modes if isinstance(mode, str) and set(mode) <= set("rwaxbt+")]
    return name == "open" and "b" not in "".join(modes) and (bool(modes) or not is_method)


def names_encoding(node: ast.Call) -> bool:
    texts = [a.value for a in node.args if isinstance(a, ast.Constant)]
    return "utf-8" in texts or any(keyword.arg == "encoding" for keyword in node.keywords)


def test_every_text_is_opened_with_its_encoding() -> None:
    found = {
        path.relative_to(ROOT).as_posix(): lines
        for path in (ROOT / "sceneparse").rglob("*.py")
        if (lines := encodings_missing_in(path.read_text(encoding="utf-8")))
    }
    assert not found


def test_the_search_for_encodings_finds_what_lacks_one() -> None:
    bad = "p.read_text()\np.write_text('x')\np.open('a')\nopen(p)\nopen(p, 'w')\n"
    good = "p.read_text(encoding='utf-8')\np.write_text('x', 'utf-8')\np.open('rb')\nread_text(p)\n"
    assert encodings_missing_in(bad) == [1, 2, 3, 4, 5]
    assert not encodings_missing_in(good)
