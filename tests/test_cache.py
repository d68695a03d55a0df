"""Caches give what decoding gives, decode once, share, and notice damage and change."""

from __future__ import annotations

import errno
import io
import multiprocessing
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from sceneparse.data import datasets
from sceneparse.data.cache import CACHES, DiskCache, MemoryCache, free_memory
from sceneparse.data.datasets import SegmentationDataset, create_dataset
from sceneparse.data.labels import identity_table, palette_color
from sceneparse.data.loader import batches, evaluation_loader
from sceneparse.data.resizing import Resize, resize_mask
from sceneparse.errors import InputError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/sceneparse/decoded"


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Images that have been decoded so far."""
    paths: list[Path] = []
    read = datasets.read_image

    def counted(path: Path, bit_depth: int | None) -> np.ndarray:
        paths.append(path)
        return read(path, bit_depth)

    monkeypatch.setattr(datasets, "read_image", counted)
    return paths


def plain_samples(root: Path) -> SegmentationDataset:
    return create_dataset("folder", root, "train")


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_samples_are_equal_and_decoded_once(scenes: Path, decodings: list[Path], kind: str) -> None:
    plain = plain_samples(scenes)
    cached = CACHES[kind](plain)
    expected = [plain[i] for i in range(3)]
    decodings.clear()
    for _ in range(3):
        for i, (image, mask, name) in enumerate(expected):
            got = cached[i]
            assert np.array_equal(got[0], image)
            assert np.array_equal(got[1], mask)
            assert (got[1].dtype, got[2]) == (mask.dtype, name)
            assert not got[0].flags.writeable
    assert len(decodings) == 3
    if kind == "disk":
        assert np.array_equal(DiskCache(plain)[0][0], expected[0][0])
        assert len(decodings) == 3


@pytest.mark.parametrize("kind", ["ram", "disk", "none", "auto"])
def test_resized_samples_are_kept_resized(scenes: Path, kind: str) -> None:
    """The files are 96x64: each new pixel is the mean of four, and the label at its centre."""
    plain = plain_samples(scenes)
    half = CACHES[kind](plain.resized(Resize("long", 48)))
    for _ in range(2):
        for index in range(3):
            image, mask, _ = plain[index]
            blocks = image.reshape(32, 2, 48, 2, 3).mean((1, 3))
            found, labels, _ = half[index]
            assert np.abs(found - blocks).max() <= 0.5
            assert np.array_equal(labels, mask[1::2, 1::2])
            assert np.array_equal(half.mask(index), labels)
    assert np.array_equal(CACHES[kind](plain)[0][0], plain[0][0])  # not taken for the resized ones


@pytest.mark.parametrize("size", [(30, 41), (7, 100), (129, 193), (64, 96)])
def test_masks_are_resized_as_pillow_does(size: tuple[int, int]) -> None:
    # Of odd sizes, no centre lies between two pixels.
    mask = np.random.default_rng(1).integers(0, 2000, (63, 95)).astype(np.uint16)
    pillow = Image.fromarray(mask.astype(np.int32)).resize(size[::-1], Image.Resampling.NEAREST)
    assert np.array_equal(resize_mask(mask, size), np.asarray(pillow))


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_labels_of_16_bits(tmp_path: Path, kind: str) -> None:
    for part in ("images", "labels"):
        (tmp_path / "train" / part).mkdir(parents=True)
    mask = (np.arange(15).reshape(3, 5) * 20).astype(np.uint16)
    Image.fromarray(np.zeros((3, 5, 3), np.uint8)).save(tmp_path / "train/images/a.png")
    Image.fromarray(mask).save(tmp_path / "train/labels/a.png")
    names = [f"c{k}" for k in range(300)]
    (tmp_path / "classes.txt").write_text("\n".join(names))
    cached = CACHES[kind](plain_samples(tmp_path))
    for _ in range(2):
        assert np.array_equal(cached[0][1], mask)
        assert cached[0][1].dtype == np.uint16
    assert identity_table(names, [palette_color(0)] * 300).ignore_index == 65535


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "garbage"])
def test_damaged_file_is_made_anew(
    scenes: Path, own_cache: Path, decodings: list[Path], damage: str
) -> None:
    plain = plain_samples(scenes)
    expected = DiskCache(plain)[0][0].copy()
    (path,) = own_cache.iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    changes: dict[str, Callable[[], bytes]] = {
        "flip": lambda: bytes(content),
        "cut": lambda: bytes(content[:-7]),
        "empty": lambda: b"",
        "garbage": lambda: b"x" * 100,
    }
    path.write_bytes(changes[damage]())
    decodings.clear()
    assert np.array_equal(DiskCache(plain)[0][0], expected)
    assert len(decodings) == 1
    assert np.array_equal(DiskCache(plain)[0][0], expected)
    assert len(decodings) == 1


def test_changed_image_is_decoded_again(scenes: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(scenes, root)
    plain = plain_samples(root)
    before = DiskCache(plain)[0][0].copy()
    Image.fromarray(255 - before).save(plain.pairs[0].image)
    after = DiskCache(plain_samples(root))[0][0]
    assert np.array_equal(after, np.asarray(Image.open(plain.pairs[0].image).convert("RGB")))
    assert not np.array_equal(after, before)


@pytest.mark.parametrize("start", multiprocessing.get_all_start_methods())
def test_workers_fill_one_memory(scenes: Path, start: str) -> None:
    plain = plain_samples(scenes)
    cached = MemoryCache(plain)
    loader = evaluation_loader(cached, rank=0, world_size=1, workers=2, timeout=60)
    loader.multiprocessing_context = start
    images = [batch.images[0] for batch in batches(loader)]
    assert cached._ready.map[:] == b"\1" * len(plain)
    assert torch.equal(images[5], torch.tensor(plain[5][0]).permute(2, 0, 1))


def test_memory_that_is_not_there_is_refused(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sceneparse.data.cache.free_memory", lambda: 10)
    with pytest.raises(InputError, match=r"ram needs 0\.0 GB, .*set data\.cache: disk"):
        MemoryCache(plain_samples(scenes))


def test_auto_keeps_what_is_small_in_memory(
    scenes: Path, decodings: list[Path], monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    plain = plain_samples(scenes)
    expected = plain[0]
    height, width = expected[1].shape
    needed = len(plain) * height * width * 4
    decodings.clear()
    for free, decoded in ((8 * needed, 1), (8 * needed - 1, 3)):
        monkeypatch.setattr("sceneparse.data.cache.free_memory", lambda f=free: f)
        kept = CACHES["auto"](plain)
        for _ in range(3):
            assert np.array_equal(kept[0][0], expected[0])
        assert len(decodings) == decoded
        decodings.clear()
    monkeypatch.setattr("sceneparse.data.cache.sys", SimpleNamespace(platform="darwin"))
    assert CACHES["auto"](plain) is plain
    assert ["not kept" in text for text in logged] == [False, True, True]


def test_free_memory_is_what_the_system_can_give() -> None:
    assert free_memory() <= 1.05 * psutil.virtual_memory().available
    assert free_memory() > 2**26


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_image_turned_by_exif_after_its_pixels_is_kept_or_decoded(
    scenes: Path, tmp_path: Path, kind: str
) -> None:
    root = shutil.copytree(scenes, tmp_path / "turned")
    pair = plain_samples(root).pairs[0]
    png, turned = io.BytesIO(), Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(np.rot90(plain_samples(root)[0][0]).copy()).save(png, "PNG", exif=turned)
    content = png.getvalue()
    start = content.index(b"eXIf") - 4
    (length,) = struct.unpack(">I", content[start : start + 4])
    end = start + length + 12
    late = content[:start] + content[end:-12] + content[start:end] + content[-12:]
    pair.image.unlink()
    pair.image.with_suffix(".png").write_bytes(late)
    plain = plain_samples(root)
    assert plain[0][0].shape[:2] == plain[0][1].shape
    cached = CACHES[kind](plain)
    for _ in range(2):
        assert np.array_equal(cached[0][0], plain[0][0])


def test_unwritable_cache_is_explained(scenes: Path, own_cache: Path) -> None:
    own_cache.parent.mkdir(parents=True)
    own_cache.write_text("a file is in the way")
    with pytest.raises(InputError, match=r"cannot write the cache .*set data\.cache: none"):
        DiskCache(plain_samples(scenes))


def test_full_disk_is_explained(
    scenes: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    cached = DiskCache(plain_samples(scenes))
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"No space left on device; free some space"):
        cached[0]
    assert list(own_cache.iterdir()) == []
