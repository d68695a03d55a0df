"""The benchmark of label errors: what it flips, what counts as found, and a whole tiny run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray

from benchmarks import label_errors as benchmark
from benchmarks.cleanlab_scores import Pixels, find_issues, soft_minimum
from benchmarks.label_errors import hits_of, scores_of
from benchmarks.label_flips import KINDS, flip_labels
from sceneparse.data.datasets import create_dataset
from sceneparse.data.synthetic import write_dataset
from sceneparse.errors import InputError
from sceneparse.suspects.regions import Region, disagreement, find_regions
from sceneparse.suspects.search import Suspect


def masks() -> list[NDArray[np.uint8]]:
    """Return street scenes of a kind: large areas, with small objects on them."""
    random, found = np.random.default_rng(0), []
    for _ in range(6):
        mask = np.zeros((120, 160), np.uint8)
        mask[60:] = 1
        for x in range(10, 150, 30):
            y, side = random.integers(5, 95), random.integers(8, 16)
            mask[y : y + side, x : x + side] = random.integers(2, 5)
        mask[:, 155:] = 255
        found.append(mask)
    return found


def test_flips_are_where_masks_differ_and_the_same_again() -> None:
    before, after = masks(), masks()
    changes, flips = flip_labels(after, 5, 12, seed=1)
    assert [flip["kind"] for flip in flips] == [*KINDS] * 4
    for old, new, change in zip(before, after, changes, strict=True):
        assert ((old != new) == (change > 0)).all()
        assert (new[old == 255] == 255).all()
        assert set(np.unique(new)) <= {0, 1, 2, 3, 4, 255}
    for number, flip in enumerate(flips, start=1):
        pixels = [int((change == number).sum()) for change in changes]
        assert pixels[flip["image"]] == sum(pixels) == flip["pixels"] >= 32
    again = masks()
    assert flip_labels(again, 5, 12, seed=1)[1] == flips
    assert all((a == b).all() for a, b in zip(again, after, strict=True))
    assert flip_labels(masks(), 5, 12, seed=2)[1] != flips
    with pytest.raises(InputError, match="regions can be flipped; ask for fewer"):
        flip_labels(masks(), 5, 10_000, seed=1)


def suspect(x: int, width: int) -> Suspect:
    shape = np.ones((4, width), bool)
    region = Region(0, 1, (x, 2, width, 4), 4 * width, 0.1, 0.9, 2.3, np.packbits(shape))
    return Suspect(0, region)


def test_precision_and_recall_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = np.zeros((10, 40), np.uint16)
    changed[:, 0:10], changed[:, 20:30] = 1, 2
    # Inside of flip 1, half of it outside, mostly outside, elsewhere, inside of flip 2.
    suspects = [suspect(*box) for box in ((0, 8), (8, 4), (8, 6), (32, 8), (22, 5))]
    assert hits_of(suspects, [changed]) == [1, 1, 0, 0, 2]
    monkeypatch.setattr(benchmark, "FIRST", (2, 10))
    assert scores_of(suspects, [changed], flips=4) == {
        **{"precision_2": 1.0, "recall_2": 0.25},
        **{"precision_10": 0.3, "recall_10": 0.5, "recall": 0.5},
    }


def test_scores_and_issues_are_those_of_cleanlab() -> None:
    """Its own functions for whole arrays, on noisy labels of three classes."""
    reason = "needs cleanlab: pip install cleanlab"
    rank = pytest.importorskip("cleanlab.segmentation.rank", reason=reason)
    search = pytest.importorskip("cleanlab.segmentation.filter", reason=reason)
    random = np.random.default_rng(0)
    labels = np.kron(random.integers(0, 3, (4, 4, 5)), np.ones((1, 8, 8), int))
    logits = 2 * (np.arange(3)[None, :, None, None] == labels[:, None])
    logits = logits + random.normal(0, 1.5, (4, 3, 32, 40))
    odds = np.exp(logits)
    probabilities = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
    images, pixels = rank.get_label_quality_scores(labels, probabilities, verbose=False, n_jobs=1)
    expected = search.find_label_issues(labels, probabilities, verbose=False, n_jobs=1)

    def shown() -> Iterator[Pixels]:
        for number in (2, 0, 3, 1):
            yield number, labels[number].ravel(), probabilities[number].reshape(3, -1).T

    found = find_issues(shown, 3)
    assert np.allclose(found.images, images, rtol=1e-6, atol=0)
    assert 0 < expected.sum() < expected.size
    for number, label in enumerate(labels):
        best, confidence = probabilities[number].argmax(axis=0), probabilities[number].max(axis=0)
        ours = disagreement(label, best, confidence, pixels[number].astype(np.float32), 3)
        is_issue = np.zeros(label.size, bool)
        is_issue[ours.where[ours.quality <= found.quality]] = True
        assert np.array_equal(is_issue.reshape(label.shape), expected[number])
        for region in find_regions(ours, 0.5, 0):
            x, y, width, height = region.box
            part = pixels[number][y : y + height, x : x + width][region.shape]
            assert region.quality == pytest.approx(part.mean(), rel=1e-6)
            assert soft_minimum(part) == pytest.approx(
                np.sum(part * np.exp(-part / 0.1)) / np.sum(np.exp(-part / 0.1))
            )


def test_a_missing_cleanlab_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.cleanlab_scores.find_spec", lambda _: None)
    words = ["--data", str(tmp_path), "--model", "runs/x", "--cleanlab"]
    with pytest.raises(InputError, match="cleanlab is not installed; run: pip install cleanlab"):
        benchmark.main(benchmark.parser().parse_args(words))


@pytest.mark.slow
def test_whole_benchmark_runs_and_is_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "scenes", {"train": 8}, size=(96, 128))
    torch.save(timm.create_model("mobilenetv2_100").state_dict(), tmp_path / "weights.pth")
    words = [
        *("--data", str(tmp_path / "scenes"), "--dataset", "folder"),
        *("--weights", str(tmp_path / "weights.pth"), "--flips", "6", "--folds", "2"),
        *("--epochs", "1", "--output", str(tmp_path / "run"), "loss.class_weights=null"),
        *("augment.crop=[49,65]", "data.workers=0", "model.width=32"),
    ]
    benchmark.main(benchmark.parser().parse_args(words))
    result = json.loads((tmp_path / "run/label_errors.json").read_text())
    assert result["flips"] == dict.fromkeys(KINDS, 2)
    assert set(result["rankings"]) >= {"score", "sum of losses", "mean loss"}
    assert set(result["image_rankings"]) == {"score"}
    flipped = create_dataset("folder", tmp_path / "run/data", "flipped")
    original = create_dataset("folder", tmp_path / "scenes", "train")
    changed = [int((flipped.mask(k) != original.mask(k)).sum()) for k in range(8)]
    flips = json.loads((tmp_path / "run/data/flips.json").read_text())["flips"]
    assert sum(changed) == sum(flip["pixels"] for flip in flips)
    first = capsys.readouterr().out
    benchmark.main(benchmark.parser().parse_args(words))
    assert capsys.readouterr().out.splitlines()[-1] == first.splitlines()[-1]
    with pytest.raises(InputError, match="made with other settings"):
        benchmark.main(benchmark.parser().parse_args([*words, "--flips", "5"]))
