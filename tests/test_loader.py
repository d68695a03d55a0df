"""Batches follow from seed, epoch and index, whatever the processes, workers and resume point."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import sceneparse.data.loader as loader_module
from sceneparse.data.datasets import Sample, SegmentationDataset, create_dataset
from sceneparse.data.labels import identity_table
from sceneparse.data.loader import (
    Batch,
    TensorSamples,
    _exit_with_main,
    batches,
    evaluation_loader,
    explained_worker_failures,
    training_loader,
)
from sceneparse.data.sampling import SAMPLING, EpochSampler
from sceneparse.data.transforms import training_transform
from sceneparse.errors import InputError

SIZE, BATCH = 29, 8


def sampler_of(
    *, rank: int = 0, world_size: int = 1, accumulate: int = 1, seed: int = 5, epoch: int = 0
) -> EpochSampler:
    sampler = EpochSampler(
        SIZE, BATCH, accumulate=accumulate, seed=seed, rank=rank, world_size=world_size
    )
    sampler.start_at(epoch, 0)
    return sampler


def test_epoch_is_a_permutation_without_its_incomplete_step() -> None:
    steps = list(sampler_of(epoch=3))
    assert [len(step) for step in steps] == [8, 8, 8]
    assert {draw.epoch for step in steps for draw in step} == {3}
    indices = [draw.index for step in steps for draw in step]
    assert len(set(indices)) == 24
    assert set(indices) <= set(range(SIZE))
    assert indices != sorted(indices)


def test_order_follows_from_seed_and_epoch() -> None:
    first = list(sampler_of(epoch=1))
    assert first == list(sampler_of(epoch=1))
    others = [sampler_of(epoch=2), sampler_of(epoch=1, seed=6)]
    for other in others:
        assert [d.index for step in other for d in step] != [d.index for s in first for d in s]


def test_every_sample_gets_its_turn() -> None:
    seen = {d.index for epoch in range(20) for step in sampler_of(epoch=epoch) for d in step}
    assert seen == set(range(SIZE))


@pytest.mark.fault(39)
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_out_the_same_global_batches(world_size: int, accumulate: int) -> None:
    expected = [set(step) for step in sampler_of(epoch=2)]
    ranks = [
        list(sampler_of(rank=rank, world_size=world_size, accumulate=accumulate, epoch=2))
        for rank in range(world_size)
    ]
    for micro_batches in ranks:
        assert [len(keys) for keys in micro_batches] == [8 // world_size // accumulate] * (
            3 * accumulate
        )
    for step, batch in enumerate(expected):
        pieces = slice(step * accumulate, (step + 1) * accumulate)
        shared = [key for rank in ranks for keys in rank[pieces] for key in keys]
        assert len(shared) == BATCH
        assert set(shared) == batch


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_start_in_the_middle_gives_the_tail(step: int, accumulate: int) -> None:
    sampler = sampler_of(accumulate=accumulate, world_size=2, rank=1, epoch=4)
    whole = list(sampler)
    sampler.start_at(4, step)
    assert list(sampler) == whole[step * accumulate :]


@pytest.mark.parametrize(("accumulate", "world_size"), [(3, 1), (1, 3), (2, 8)])
def test_batch_that_cannot_be_shared_out_is_refused(accumulate: int, world_size: int) -> None:
    pieces = accumulate * world_size
    with pytest.raises(InputError, match=rf"train\.batch_size 8 .*multiple.* {pieces}$"):
        sampler_of(accumulate=accumulate, world_size=world_size)


def test_too_few_images_are_refused() -> None:
    with pytest.raises(InputError, match=r"^7 training images are fewer than train\.batch_size 8"):
        EpochSampler(7, 8)


def test_stream_goes_on_where_an_epoch_ends() -> None:
    sampler = EpochSampler(SIZE, BATCH, seed=5, stream=True)
    drawn = []
    for epoch in range(5):
        sampler.start_at(epoch, 0)
        drawn += [draw for step in sampler for draw in step]
    assert len(drawn) == 5 * 24
    for start in range(0, 4 * SIZE, SIZE):
        assert sorted(draw.index for draw in drawn[start : start + SIZE]) == list(range(SIZE))
        assert {draw.epoch for draw in drawn[start : start + SIZE]} == {start // SIZE}
    sampler.start_at(3, 1)
    assert [draw for step in sampler for draw in step] == drawn[3 * 24 + BATCH : 4 * 24]


def test_classes_are_balanced() -> None:
    counts = np.zeros((40, 3), np.int64)
    counts[:, 0] = 900  # everywhere
    counts[:4, 1] = 9  # class 1 in four samples, class 2 nowhere
    sampler = EpochSampler(40, 8, sampling="class_balanced", counts=counts)
    drawn = []
    for epoch in range(30):
        sampler.start_at(epoch, 0)
        drawn += [draw for step in sampler for draw in step]
    share = sum(draw.index < 4 for draw in drawn) / len(drawn)
    # half by class 1, a tenth of the other half by chance
    assert share == pytest.approx(0.55, abs=0.05)
    seeds = [(draw.epoch, draw.index, draw.repeat) for draw in drawn]
    assert len(set(seeds)) == len(seeds)


def test_rare_crops_show_the_wanted_class(scenes: Path) -> None:
    dataset = create_dataset("folder", scenes, "train")
    counts = np.stack([np.bincount(dataset.mask(i).ravel(), minlength=256) for i in range(12)])
    counts = counts[:, : dataset.table.num_classes]
    sampler = EpochSampler(12, 4, sampling="rare_crops", counts=counts)
    sampler.start_at(3, 0)
    draws = [draw for step in sampler for draw in step]
    rare = counts.sum(0) < 0.1 * counts.sum()
    assert all(rare[draw.wanted_class] for draw in draws)
    transform = training_transform(
        crop=(24, 24),
        scale=(1.0, 2.0),
        rotate=0,
        flip=0.5,
        blur=0,
        color_jitter=0,
        fill=(0, 0, 0),
        ignore_index=255,
    )
    samples = TensorSamples(dataset, transform, 0)
    for draw in draws:
        sample = samples[draw]
        assert not isinstance(sample, InputError)
        assert (sample[1] == draw.wanted_class).any()


@pytest.mark.parametrize("sampling", SAMPLING)
def test_every_sampling_follows_from_seed_and_epoch(sampling: str) -> None:
    counts = np.random.default_rng(0).integers(0, 50, (SIZE, 4))
    sampler = EpochSampler(SIZE, BATCH, sampling=sampling, counts=counts)
    sampler.start_at(2, 0)
    first = list(sampler)
    assert first == list(sampler)
    assert {draw.index for step in first for draw in step} <= set(range(SIZE))
    sampler.start_at(3, 0)
    assert first != list(sampler)


def augmented(root: Path, seed: int = 0) -> TensorSamples:
    transform = training_transform(
        crop=(32, 40),
        scale=(0.5, 2.0),
        rotate=10,
        flip=0.5,
        blur=0.5,
        color_jitter=0.4,
        fill=(124, 116, 104),
        ignore_index=255,
    )
    return TensorSamples(create_dataset("folder", root, "train"), transform, seed)


def two_epochs(root: Path, workers: int, seed: int = 0) -> list[list[Batch]]:
    sampler = EpochSampler(12, 4, seed=seed)
    loader = training_loader(augmented(root, seed), sampler, workers=workers, timeout=60)
    epochs = []
    for epoch in range(2):
        sampler.start_at(epoch, 0)
        epochs.append(list(batches(loader)))
    return epochs


@pytest.fixture(scope="module")
def without_workers(scenes: Path) -> list[list[Batch]]:
    """Two epochs of three batches, loaded in this process."""
    return two_epochs(scenes, workers=0)


def test_batch_has_the_contracts_types(without_workers: list[list[Batch]]) -> None:
    for batch in without_workers[0]:
        assert batch.images.shape == (4, 3, 32, 40)
        assert batch.targets.shape == (4, 32, 40)
        assert batch.images.dtype == batch.targets.dtype == torch.uint8
        assert len(batch.names) == 4


@pytest.mark.fault(23)
@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 50),
    first_step=st.integers(0, 2),
    workers=st.integers(1, 4),
)
def test_same_seed_gives_the_same_batches_with_any_workers(
    scenes: Path, seed: int, epoch: int, first_step: int, workers: int
) -> None:
    def tail(workers: int) -> list[Batch]:
        sampler = EpochSampler(12, 4, seed=seed)
        sampler.start_at(epoch, first_step)
        return list(
            batches(training_loader(augmented(scenes, seed), sampler, workers=workers, timeout=60))
        )

    alone = tail(0)
    assert len(alone) == 3 - first_step
    for batch, expected in zip(tail(workers), alone, strict=True):
        assert torch.equal(batch.images, expected.images)
        assert torch.equal(batch.targets, expected.targets)
        assert batch.names == expected.names


@pytest.mark.fault(23)
def test_workers_that_live_on_do_not_change_batches(
    scenes: Path, without_workers: list[list[Batch]]
) -> None:
    for epoch, expected_epoch in zip(two_epochs(scenes, 2), without_workers, strict=True):
        for batch, expected in zip(epoch, expected_epoch, strict=True):
            assert torch.equal(batch.images, expected.images)
            assert batch.names == expected.names


def test_large_batches_come_by_shared_memory(
    scenes: Path, without_workers: list[list[Batch]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader_module, "_MAX_PIPED", 0)
    (epoch, _), (expected_epoch, _) = two_epochs(scenes, 1), without_workers
    for batch, expected in zip(epoch, expected_epoch, strict=True):
        assert batch.images.is_shared()
        assert torch.equal(batch.images, expected.images)
        assert torch.equal(batch.targets, expected.targets)


def test_batches_come_by_shared_memory_where_the_end_of_a_worker_interrupts_nothing(
    scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = create_dataset("folder", scenes, "train")
    options = {"rank": 0, "world_size": 1, "workers": 1, "timeout": 60}
    with ThreadPoolExecutor(1) as pool:
        loader = pool.submit(evaluation_loader, dataset, **options).result()
    assert next(batches(loader)).images.is_shared()
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: "forkserver")
    assert next(batches(evaluation_loader(dataset, **options))).images.is_shared()


@pytest.mark.fault(23)
def test_epochs_and_seeds_augment_anew(scenes: Path, without_workers: list[list[Batch]]) -> None:
    by_name = [
        {
            name: image
            for batch in epoch
            for name, image in zip(batch.names, batch.images, strict=True)
        }
        for epoch in (*without_workers, two_epochs(scenes, 0, seed=1)[0])
    ]
    for name, image in by_name[0].items():
        assert not torch.equal(image, by_name[1][name])
        assert not torch.equal(image, by_name[2][name])


def test_restart_in_the_middle_gives_the_same_batches(
    scenes: Path, without_workers: list[list[Batch]]
) -> None:
    sampler = EpochSampler(12, 4)
    sampler.start_at(1, 2)
    (batch,) = batches(training_loader(augmented(scenes), sampler, workers=0, timeout=60))
    assert batch.names == without_workers[1][2].names
    assert torch.equal(batch.images, without_workers[1][2].images)


@pytest.mark.fault(45)
@pytest.mark.parametrize("workers", [0, 1])
def test_truncated_file_is_named_in_one_line(scenes: Path, tmp_path: Path, workers: int) -> None:
    root = tmp_path / "damaged"
    shutil.copytree(scenes, root)
    victim = sorted((root / "train/images").iterdir())[3]
    victim.write_bytes(victim.read_bytes()[:1500])
    loader = training_loader(augmented(root), EpochSampler(12, 4), workers=workers, timeout=60)
    with pytest.raises(InputError) as error:
        list(batches(loader))
    assert str(error.value).startswith(f"{victim}: ")
    assert "\n" not in str(error.value)


class Samples(SegmentationDataset):
    """Grey images whose only value is their index."""

    def __init__(self, size: int) -> None:
        super().__init__((), identity_table(["a", "b"], [(0, 0, 0), (1, 1, 1)]))
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        shape = (4 + index, 6)
        return np.full((*shape, 3), index, np.uint8), np.zeros(shape, np.uint8), f"{index}"


class Dying(Samples):
    """The worker ends in some way at its second sample."""

    def __init__(self, size: int, end: Callable[[], object]) -> None:
        super().__init__(size)
        self.end = end

    def __getitem__(self, index: int) -> Sample:
        if index == 1:
            time.sleep(0.3)
            self.end()
        return super().__getitem__(index)


def kill_itself() -> None:
    """As the system does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


class Stuck(Samples):
    """A disk that does not answer."""

    def __getitem__(self, index: int) -> Sample:
        time.sleep(1.2)
        return super().__getitem__(index)


@pytest.mark.fault(45)
@pytest.mark.parametrize("end", [kill_itself, partial(os._exit, 0), partial(os._exit, 3)])
def test_worker_that_ends_is_explained(end: Callable[[], object]) -> None:
    # torch does not notice an exit code of 0 before the time-out
    loader = evaluation_loader(Dying(2, end), rank=0, world_size=1, workers=1, timeout=5)
    with pytest.raises(InputError, match=r"a data worker died, .* data\.workers"):
        list(batches(loader))


@pytest.mark.fault(45)
def test_worker_killed_while_the_main_process_computes_is_explained() -> None:
    loader = evaluation_loader(Dying(2, kill_itself), rank=0, world_size=1, workers=1, timeout=60)
    with pytest.raises(InputError, match="a data worker died"), explained_worker_failures():
        for _ in batches(loader):
            time.sleep(1)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems tell when a process ends")
def test_worker_ends_though_nobody_collects_the_main_process() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as main:
        worker = multiprocessing.get_context("fork").Process(
            target=_exit_with_main, args=(main.pid,)
        )
        worker.start()
        main.kill()
        # Waits for its end, and leaves its number in the table of processes.
        os.waitid(os.P_PID, main.pid, os.WEXITED | os.WNOWAIT)
        worker.join(10)
        assert (worker.exitcode, Path(f"/proc/{main.pid}").exists()) == (0, True)


@pytest.mark.fault(45)
def test_stuck_worker_is_explained() -> None:
    loader = evaluation_loader(Stuck(1), rank=0, world_size=1, workers=1, timeout=0.3)
    with pytest.raises(InputError, match=r"no batch arrived in time; .* data\.timeout"):
        list(batches(loader))


class Broken(SegmentationDataset):
    """A dataset whose second sample meets a bug."""

    def __getitem__(self, index: int) -> Sample:
        if index == 1:
            raise ZeroDivisionError("a bug")
        return super().__getitem__(index)


@pytest.mark.fault(45)
@pytest.mark.parametrize("workers", [0, 1])
def test_error_names_the_file(scenes: Path, workers: int) -> None:
    dataset = create_dataset("folder", scenes, "val")
    broken = Broken(dataset.pairs, dataset.table)
    loader = evaluation_loader(broken, rank=0, world_size=1, workers=workers, timeout=60)
    image = re.escape(str(dataset.pairs[1].image))
    with pytest.raises(RuntimeError, match=f"{image}: ZeroDivisionError: a bug"):
        list(batches(loader))


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_evaluation_covers_each_sample_once(world_size: int) -> None:
    names = []
    for rank in range(world_size):
        loader = evaluation_loader(
            Samples(5), rank=rank, world_size=world_size, workers=0, timeout=60
        )
        for batch in batches(loader):
            (name,) = batch.names
            assert batch.images.shape == (1, 3, 4 + int(name), 6)
            assert (batch.images == int(name)).all()
            names.append(name)
    assert sorted(names) == ["0", "1", "2", "3", "4"]


def test_rank_without_samples_starts_no_workers() -> None:
    loader = evaluation_loader(Samples(2), rank=4, world_size=5, workers=2, timeout=60)
    assert loader.num_workers == 0
    assert list(batches(loader)) == []


@pytest.mark.fault(13)
@pytest.mark.parametrize("workers", [0, 1])
def test_targets_of_16_bits_keep_their_values(tmp_path: Path, workers: int) -> None:
    names = [f"class {index}" for index in range(300)]
    (tmp_path / "classes.txt").write_text("\n".join(names))
    for folder in ("images", "labels"):
        (tmp_path / f"val/{folder}").mkdir(parents=True)
    Image.new("RGB", (3, 1)).save(tmp_path / "val/images/a.png")
    mask = np.array([[0, 299, 65535]], dtype=np.uint16)
    Image.fromarray(mask).save(tmp_path / "val/labels/a.png")
    dataset = create_dataset("folder", tmp_path, "val")
    loader = evaluation_loader(dataset, rank=0, world_size=1, workers=workers, timeout=60)
    (batch,) = batches(loader)
    assert batch.targets.tolist() == [mask.tolist()]
