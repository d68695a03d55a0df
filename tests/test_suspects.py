"""Labels that are probably wrong: regions by brute force, planted errors, folds, the command."""

from __future__ import annotations

import csv
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from sceneparse.cli import check as command
from sceneparse.cli import train
from sceneparse.data.datasets import SegmentationDataset, create_dataset
from sceneparse.data.labels import palette
from sceneparse.data.synthetic import write_dataset
from sceneparse.errors import InputError, Preempted
from sceneparse.inference.any_network import AnyNetwork
from sceneparse.inference.predictor import Predictor
from sceneparse.runs.checkpoint import load_segmentation_model
from sceneparse.runtime.distributed import Process
from sceneparse.suspects import folds as folding
from sceneparse.suspects.folds import Folds, fold_settings, plan_folds, train_folds
from sceneparse.suspects.page import suspect_rows, write_suspects_page, write_table
from sceneparse.suspects.regions import MIN_PIXELS, disagreement, find_regions
from sceneparse.suspects.search import search

MakeRun = Callable[..., Path]
CPU = Process(0, 1, torch.device("cpu"))


def check(*arguments: object) -> None:
    command.main(command.parser().parse_args([*map(str, arguments)]))


def random_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return smooth random probabilities (4, 40, 50), and a mask of blocks with ignored pixels."""
    random = np.random.default_rng(seed)
    logits = ndimage.zoom(random.normal(0, 2, (4, 8, 10)), (1, 5, 5), order=1)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=0)
    mask = np.kron(random.integers(0, 4, (4, 5)), np.ones((10, 10), int)).astype(np.uint8)
    mask[random.random(mask.shape) < 0.02] = 255
    return probabilities.astype(np.float32), mask


def regions_by_hand(probabilities: np.ndarray, mask: np.ndarray) -> set[tuple[Any, ...]]:
    """Return the pixels and means of the regions, pixel by pixel and label by label."""
    doubtful = np.zeros((4, 4, *mask.shape), bool)
    for y, x in itertools.product(*map(range, mask.shape)):
        best, given = int(probabilities[:, y, x].argmax()), int(mask[y, x])
        if given not in {255, best} and probabilities[given, y, x] < 0.1:
            doubtful[given, best, y, x] = True
    found = set()
    for given, best in itertools.product(range(4), range(4)):
        numbers, count = ndimage.label(doubtful[given, best], np.ones((3, 3)))
        for number in range(1, count + 1):
            inside = numbers == number
            if inside.sum() >= MIN_PIXELS:
                places = tuple(np.flatnonzero(inside).tolist())
                both = [probabilities[k][inside].mean(dtype=float) for k in (given, best)]
                if both[1] >= 0.5:
                    found.add((given, best, places, *(round(float(mean), 5) for mean in both)))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_regions_equal_brute_force(seed: int) -> None:
    probabilities, mask = random_case(seed)
    quality = np.take_along_axis(probabilities, np.minimum(mask, 3)[None].astype(int), 0)[0]
    best, confidence = probabilities.argmax(axis=0), probabilities.max(axis=0)
    found = set()
    for region in find_regions(disagreement(mask, best, confidence, quality, 4)):
        x, y, width, height = region.box
        inside = np.zeros(mask.shape, bool)
        inside[y : y + height, x : x + width] = region.shape
        assert region.pixels == inside.sum()
        assert region.shape.any(axis=0).all() and region.shape.any(axis=1).all()
        losses = -np.log(probabilities[region.given][inside])
        assert region.score == pytest.approx(losses.mean() * np.log(inside.sum()), rel=1e-4)
        means = round(region.quality, 5), round(region.confidence, 5)
        places = tuple(np.flatnonzero(inside).tolist())
        found.add((region.given, region.suggested, places, *means))
    assert found == regions_by_hand(probabilities, mask)
    assert found


@pytest.mark.parametrize("settings", [{}, {"protocol": "slide", "crop": (32, 48), "mirror": True}])
def test_probability_of_given_classes(make_run: MakeRun, settings: dict[str, Any]) -> None:
    random = np.random.default_rng(0)
    predictor = Predictor(make_run(), device="cpu", **settings)
    scores = predictor.score(random.integers(0, 256, (1, 64, 96, 3), dtype=np.uint8))
    given = torch.from_numpy(random.integers(0, 9, (1, 64, 96)))
    given[0, :5] = 255
    found = scores.confidence_in(given)
    assert (found[0, :5] == 0).all()
    expected = scores.probabilities().gather(1, given[:, None].clamp(max=8))[:, 0]
    assert torch.equal(found[0, 5:], expected[0, 5:])


COLORS = [(220, 40, 40), (40, 200, 40), (40, 60, 220)]


def by_color(images: Tensor) -> Tensor:
    """Return logits by the distance to the colours of the classes."""
    colors = torch.tensor(COLORS)[None, :, :, None, None] / 255
    return -80 * (images[:, None] - colors).square().sum(dim=2)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> SegmentationDataset:
    """Images in the colours of their classes; the masks hold two wrong regions, and a tiny one."""
    root = tmp_path_factory.mktemp("planted")
    truth = np.kron([[0, 1], [2, 0]], np.ones((30, 40), int)).astype(np.uint8)
    masks = [truth.copy() for _ in range(3)]
    masks[0][7:17, 5:17] = 1  # of class 0
    masks[1][35:43, 10:30] = 1  # of class 2
    masks[2][3:6, 3:6] = 2  # fewer than 16 pixels
    masks[2][40:60] = 255
    for kind in ("images", "labels"):
        (root / "val" / kind).mkdir(parents=True)
    for number, mask in enumerate(masks):
        Image.fromarray(np.array(COLORS, np.uint8)[truth]).save(root / f"val/images/{number}.png")
        Image.fromarray(mask).save(root / f"val/labels/{number}.png")
    (root / "classes.txt").write_text("roof\n<b>grass</b>\nwater\n")
    return create_dataset("folder", root, "val")


def test_planted_errors_are_found_and_shown(planted: SegmentationDataset, tmp_path: Path) -> None:
    network = AnyNetwork(by_color, planted.table.names, mean=(0, 0, 0), std=(1, 1, 1))
    suspects = search(planted, [(Predictor(network), range(3))])
    places = [(s.image, s.region.given, s.region.suggested, s.region.box) for s in suspects]
    assert places == [(1, 1, 2, (10, 35, 20, 8)), (0, 1, 0, (5, 7, 12, 10))]
    assert [s.region.pixels for s in suspects] == [160, 120]
    # The label is as good as impossible: the smallest probability that counts is 1e-12.
    expected = [12 * np.log(10) * np.log(pixels) for pixels in (160, 120)]
    assert [s.region.score for s in suspects] == pytest.approx(expected)
    write_table(tmp_path / "suspects.csv", suspect_rows(planted, suspects))
    with (tmp_path / "suspects.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["rank"] for row in rows] == ["1", "2"]
    assert rows[0]["labelled"] == "<b>grass</b>" and rows[0]["suggested"] == "water"
    place = {name: int(rows[0][name]) for name in ("x", "y", "width", "height", "pixels")}
    assert place == {"x": 10, "y": 35, "width": 20, "height": 8, "pixels": 160}
    assert Path(rows[0]["mask"]) == planted.pairs[1].mask
    write_suspects_page(tmp_path / "page.html", "labels", planted, suspects, {"network": "<x>"})
    page = (tmp_path / "page.html").read_text()
    assert page.count("<figure") == 2 and page.count("data:image/jpeg") == 6
    assert "<b>grass</b>" not in page and "&lt;b&gt;grass" in page and "&lt;x&gt;" in page
    write_suspects_page(tmp_path / "page.html", "labels", planted, [], {})
    assert "No region of the labels is suspect" in (tmp_path / "page.html").read_text()


def test_command_writes_table_and_page(
    make_run: MakeRun, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, network = tmp_path / "found", load_segmentation_model(make_run())
    network.head.classifier[-1].weight.data.mul_(50)  # type: ignore[union-attr,index] # be sure
    network.save_pretrained(tmp_path / "sure")
    check(scenes, "--model", tmp_path / "sure", "--output", output, "--palette", "safe")
    color = palette(create_dataset("folder", scenes, "val").table.names)[0]
    assert f"background: rgb{color}" in (output / "suspects.html").read_text()
    printed = capsys.readouterr().out
    assert "5 images, split val" in printed
    assert "the network does not tell what it was trained on" in printed
    assert "has a probability below 0.1, and whose most probable class is the same other" in printed
    assert sorted(path.name for path in output.iterdir()) == ["suspects.csv", "suspects.html"]
    dataset = create_dataset("folder", scenes, "val")
    names = {pair.name: number for number, pair in enumerate(dataset.pairs)}
    with (output / "suspects.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows and f"{len(rows)} regions" in printed
    assert [float(row["score"]) for row in rows] == sorted(
        (float(row["score"]) for row in rows), reverse=True
    )
    for row in rows:
        x, y, width, height = (int(row[name]) for name in ("x", "y", "width", "height"))
        part = dataset.mask(names[row["image"]])[y : y + height, x : x + width]
        given = dataset.table.names.index(row["labelled"])
        assert (part == given).sum() >= int(row["pixels"]) >= MIN_PIXELS
        assert row["suggested"] != row["labelled"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--folds", "3"], "--folds is for --model"),
        (["--split", "val"], "--split is for --model"),
        (["--model", "RUN", "--splits", "val"], "--splits has no effect with --model"),
        (["--model", "RUN", "--allow-twins"], "--allow-twins has no effect with --model"),
        (["--model", "RUN", "--bit-depth", "12"], "--bit-depth has no effect with --model"),
        (["--model", "RUN", "--split", "test"], "no split 'test'"),
        (["--model", "RUN", "--dataset", "camvid"], "but the dataset 'camvid' has"),
        (["--model", "RUN", "--folds", "3"], "does not store the settings"),
        (["--model", "nowhere"], "does not exist"),
    ],
)
def test_wrong_options_are_refused(
    make_run: MakeRun, scenes: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    run = str(make_run())
    output = tmp_path / "found"
    words = [run if word == "RUN" else word for word in arguments]
    with pytest.raises(InputError, match=message):
        check(scenes, *words, "--output", output)
    assert not output.exists()


def test_folds_share_out_all_images_and_keep_look_alikes_together(tmp_path: Path) -> None:
    write_dataset(tmp_path, {"train": 7}, size=(64, 96))
    images, labels = tmp_path / "train/images", tmp_path / "train/labels"
    first = min(images.iterdir())
    twin = shutil.copy(first, images / f"twin{first.suffix}")
    shutil.copy(next(labels.glob(f"{first.stem}.*")), labels / "twin.png")
    dataset = create_dataset("folder", tmp_path, "train")
    folds = plan_folds(dataset, 3)
    assert sorted(number for fold in folds.members for number in fold) == list(range(8))
    assert sorted(map(len, folds.members)) in ([2, 3, 3], [2, 2, 4])
    numbers = [pair.image for pair in dataset.pairs]
    pair = {numbers.index(first), numbers.index(Path(twin))}
    assert any(pair <= set(fold) for fold in folds.members)
    assert plan_folds(dataset, 3).members == folds.members
    for count in (1, 9):
        with pytest.raises(InputError, match=r"--folds must be in 2\.\.8"):
            plan_folds(dataset, count)


@pytest.fixture
def trained(tiny: list[str], tmp_path: Path) -> Path:
    """A run of one epoch on the small scenes."""
    arguments = ["--config", "quickstart", *tiny, "train.epochs=1", "data.cache=none"]
    train.main(train.parser().parse_args(arguments))
    return tmp_path / "run"


def test_each_fold_is_questioned_by_a_network_that_has_not_seen_it(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[set[str], set[str]]] = []

    def record(config: Any, train_set: Any, held_out: Any, _: Process) -> None:
        seen.append(({p.name for p in train_set.pairs}, {p.name for p in held_out.pairs}))
        assert config.output == str(tmp_path / f"fold-{len(seen)}")

    class Newest:
        folder = Path("checkpoint")

    monkeypatch.setattr(folding, "_train_fold", record)
    monkeypatch.setattr(folding, "newest_intact", lambda _: Newest)
    dataset = create_dataset("folder", scenes, "train")
    sections = {name: {} for name in ("data", "model", "loss", "optim", "train")}
    meta = {"config": {**sections, "data": {"root": str(scenes)}, "train": {"epochs": 7}}}
    config = fold_settings(meta, "run", {"root": str(scenes), "dataset": "folder"})
    assert (config.train.epochs, config.eval.every) == (7, 7)
    folds = plan_folds(dataset, 3)
    train_folds(config, dataset, folds, tmp_path, CPU)
    names = {pair.name for pair in dataset.pairs}
    assert len(seen) == 3
    for members, (learned, held_out) in zip(folds.members, seen, strict=True):
        assert held_out == {dataset.pairs[number].name for number in members}
        assert learned == names - held_out
    other = Folds(folds.members[::-1], "")
    with pytest.raises(InputError, match="was begun with other folds"):
        train_folds(config, dataset, other, tmp_path, CPU)

    def stop(*_: Any) -> None:
        raise Preempted("SIGTERM received, saved after step 3; resume with --resume")

    monkeypatch.setattr(folding, "_train_fold", stop)
    with pytest.raises(Preempted, match="repeat the same command to resume it"):
        train_folds(config, dataset, folds, tmp_path, CPU)


def test_folds_are_trained_once(
    trained: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "found"
    words = (scenes, "--model", trained, "--folds", "2", "--output", output)
    check(*words)
    printed = capsys.readouterr().out
    assert "12 images, split train" in printed and "2 folds of " in printed
    assert "warning" not in printed
    parts = json.loads((output / "folds.json").read_text())["folds"]
    assert len(parts) == 2 and len({*parts[0], *parts[1]}) == 12
    table = (output / "suspects.csv").read_bytes()
    states = sorted(output.glob("fold-*/checkpoints/*/meta.json"))
    times = [path.stat().st_mtime_ns for path in states]
    assert len({path.parents[2] for path in states}) == 2
    check(f"{scenes}/../{scenes.name}/", *words[1:])  # the same folder, written otherwise
    assert (output / "suspects.csv").read_bytes() == table
    assert [path.stat().st_mtime_ns for path in states] == times
    with pytest.raises(InputError, match="give another --output"):
        check(scenes, "--model", trained, "--folds", "3", "--output", output)


def test_a_network_is_not_trusted_on_its_own_training_images(
    trained: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, warned in (("train", True), ("val", False)):
        check(scenes, "--model", trained, "--split", split, "--output", tmp_path / split)
        printed = capsys.readouterr().out
        assert ("the network was trained on split train" in printed) is warned
        assert "add --folds 3" in printed or not warned
