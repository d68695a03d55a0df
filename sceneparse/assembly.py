"""From a configuration to the finished parts of a run: the one place that reads every section."""

from __future__ import annotations

import copy
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

import sceneparse
from sceneparse.checkpoint import read_meta, read_training_state, resolve_checkpoint
from sceneparse.config import SegConfig, render_config
from sceneparse.data.datasets import SegmentationDataset, create_dataset
from sceneparse.data.doctor import check_samples, spread
from sceneparse.data.loader import (
    AugmentedSamples,
    EpochSampler,
    evaluation_loader,
    training_loader,
)
from sceneparse.data.transforms import training_transform
from sceneparse.distributed import Process, check_on_main
from sceneparse.engine import Stepper
from sceneparse.errors import InputError, first_few
from sceneparse.inference import Normalization, create_infer
from sceneparse.logs import forget_records_after
from sceneparse.models import create_segmentation_model
from sceneparse.models.pretrained import load_backbone, load_strict
from sceneparse.models.segmentation import SegmentationModel
from sceneparse.optim import create_optimizer, poly_schedule
from sceneparse.precision import Compute, choose_dtype
from sceneparse.training import Training

# Settings that a resumed run may change: they say where things are, not what is computed.
_FREE_SETTINGS = ("output", "data.root", "data.workers", "data.timeout", "data.check")


def prepare_training(
    config: SegConfig, process: Process, *, resume: bool = False, overwrite: bool = False
) -> Training:
    """Check everything that can be checked and build all parts; then create the run folder.

    Raises InputError before anything is written.
    """
    folder = Path(config.output)
    say = partial(_say, process)
    check_on_main(process, lambda: _refuse_existing_run(folder, resume=resume, overwrite=overwrite))
    dtype = choose_dtype(config.train.amp, process.device)
    compute = Compute(process.device, dtype, config.train.channels_last)
    train_set, val_set = (
        create_dataset(config.data.dataset, config.data.root, split, config.data.classes)
        for split in (config.data.train_split, config.data.val_split)
    )
    check_on_main(process, lambda: _check_data(config.data.check, (train_set, val_set), say))
    sampler = _create_sampler(config, process, len(train_set))
    model = _create_model(
        config, train_set.table.num_classes, process, compute, say, fresh=not resume
    )
    _try_training_shapes(model, (sampler.micro_batch, 3, *config.augment.crop))
    infer, protocol = create_infer(config.eval.mode, config.eval.crop or config.augment.crop)
    training = Training(
        folder=folder,
        process=process,
        compute=compute,
        normalize=Normalization(config.data.mean, config.data.std),
        sampler=sampler,
        loader=_create_loader(config, train_set, sampler),
        val_set=val_set,
        val_loader=evaluation_loader(
            val_set,
            rank=process.rank,
            world_size=process.world_size,
            workers=config.data.workers,
            timeout=config.data.timeout,
        ),
        infer=infer,
        protocol=protocol,
        model=model,
        parallel=_parallel(model, process),
        stepper=_create_stepper(config, model, sampler.steps_per_epoch, dtype),
        epochs=config.train.epochs,
        eval_every=config.eval.every,
        accumulate=config.train.accumulate,
        aux_weight=config.train.aux_weight,
        seed=config.seed,
        meta=_meta(config, train_set),
    )
    if resume:
        _resume(training, config, say)
    if process.is_main:
        _create_run_folder(training, config, overwrite=overwrite)
    say(
        f"{len(train_set)} training and {len(val_set)} validation images, "
        f"{train_set.table.num_classes} classes; {sampler.steps_per_epoch} steps of "
        f"{config.train.batch_size} images x {config.train.epochs} epochs on "
        f"{process.world_size} x {process.device.type} in {compute.name}"
    )
    return training


def _refuse_existing_run(folder: Path, *, resume: bool, overwrite: bool) -> None:
    if resume:
        resolve_checkpoint(folder, prefer="last")
        return
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    is_run = (folder / "config.yaml").is_file() and (folder / "metrics.jsonl").is_file()
    if not is_run:
        raise InputError(
            f"'{folder}' exists and is not a run folder; choose another one with output=FOLDER"
        )
    if not overwrite:
        go_on = "go on with --resume, " if (folder / "last").exists() else ""
        raise InputError(
            f"'{folder}' holds a run; {go_on}start anew with --overwrite, or choose another folder "
            "with output=FOLDER"
        )


def _check_data(
    check: str, datasets: Sequence[SegmentationDataset], say: Callable[[str], None]
) -> None:
    """Decode samples before step 0: all of them, or of many an even spread."""
    for dataset in datasets:
        if check == "none":
            return
        limit = len(dataset) if check == "all" or len(dataset) <= 2000 else 500
        check_samples(dataset, spread(len(dataset), limit))
        if limit < len(dataset):
            say(f"checked {limit} of {len(dataset)} samples; data.check=all checks every one")


def _try_training_shapes(model: SegmentationModel, shape: tuple[int, ...]) -> None:
    """Run the network on shapes alone, to refuse crops that it cannot train on."""
    shapes = copy.deepcopy(model).to("meta").train()
    try:
        shapes(torch.empty(shape, device="meta"), upsample=False)
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"the network cannot train on {shape[0]} crops of {shape[2]}x{shape[3]} at once "
            f"({reason}); change augment.crop or train.batch_size"
        ) from error


def _create_sampler(config: SegConfig, process: Process, size: int) -> EpochSampler:
    return EpochSampler(
        size,
        config.train.batch_size,
        config.train.accumulate,
        config.seed,
        process.rank,
        process.world_size,
    )


def _create_loader(
    config: SegConfig, dataset: SegmentationDataset, sampler: EpochSampler
) -> DataLoader[Any]:
    augment = config.augment
    transform = training_transform(
        crop=augment.crop,
        scale=augment.scale,
        rotate=augment.rotate,
        flip=augment.flip,
        blur=augment.blur,
        color_jitter=augment.color_jitter,
        fill=[round(255 * value) for value in config.data.mean],
        ignore_index=dataset.table.ignore_index,
    )
    samples = AugmentedSamples(dataset, transform, config.seed)
    return training_loader(
        samples, sampler, workers=config.data.workers, timeout=config.data.timeout
    )


def _model_arguments(config: SegConfig, num_classes: int) -> dict[str, Any]:
    return {**config.model.model_dump(exclude={"pretrained", "freeze"}), "num_classes": num_classes}


def _create_model(
    config: SegConfig,
    num_classes: int,
    process: Process,
    compute: Compute,
    say: Callable[[str], None],
    *,
    fresh: bool,
) -> SegmentationModel:
    torch.manual_seed(config.seed)
    model = create_segmentation_model(**_model_arguments(config, num_classes))
    settings = config.model
    if fresh and settings.pretrained is not None:
        load_backbone(
            model.backbone, settings.backbone, settings.pretrained, stem=settings.stem, say=say
        )
    if settings.freeze:
        model.freeze_stages(settings.freeze)
    compute.place_model(model)
    return model


def _parallel(model: SegmentationModel, process: Process) -> nn.Module:
    if process.world_size == 1:
        return model
    if process.device.type == "cuda":
        return DistributedDataParallel(
            nn.SyncBatchNorm.convert_sync_batchnorm(model), device_ids=[process.device.index]
        )
    return DistributedDataParallel(model)


def _create_stepper(
    config: SegConfig, model: SegmentationModel, steps_per_epoch: int, dtype: torch.dtype | None
) -> Stepper:
    optim = config.optim
    optimizer = create_optimizer(
        model,
        lr=optim.lr,
        head_lr_factor=optim.head_lr_factor,
        momentum=optim.momentum,
        weight_decay=optim.weight_decay,
    )
    steps = config.train.epochs * steps_per_epoch
    averaged = None
    if config.train.ema is not None:
        average = get_ema_multi_avg_fn(config.train.ema)
        averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    return Stepper(
        optimizer=optimizer,
        schedule=poly_schedule(optimizer, steps=steps, power=optim.poly_power),
        scaler=torch.amp.GradScaler(enabled=dtype == torch.float16),
        clip_norm=optim.clip_norm,
        averaged=averaged,
    )


def _resume(training: Training, config: SegConfig, say: Callable[[str], None]) -> None:
    checkpoint = resolve_checkpoint(training.folder, prefer="last")
    meta = read_meta(checkpoint)
    saved, now = _flat(_as_now(meta["config"], checkpoint)), _flat(config.model_dump(mode="json"))
    changed = [
        f"{key} was {saved[key]}, is {now[key]}"
        for key in now
        if key not in _FREE_SETTINGS and saved[key] != now[key]
    ]
    if changed:
        raise InputError(
            f"the configuration differs from the run's: {first_few(changed)}; resume with the same "
            "settings, or start another run with output=FOLDER"
        )
    state = read_training_state(checkpoint)
    load_strict(training.model, state["model"], str(checkpoint))
    training.stepper.load_state_dict(state["stepper"])
    vars(training.position).update(state["position"])
    say(f"going on from {checkpoint} after step {training.steps_done}")


def _as_now(saved: dict[str, Any], checkpoint: Path) -> dict[str, Any]:
    """Fill in the settings that have been added since a checkpoint was written."""
    try:
        return SegConfig.model_validate(saved).model_dump(mode="json")
    except ValidationError as error:
        raise InputError(
            f"{checkpoint} is of another version: {error.error_count()} settings do not fit"
        ) from error


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _create_run_folder(training: Training, config: SegConfig, *, overwrite: bool) -> None:
    folder = training.folder
    try:
        if overwrite and folder.exists():
            shutil.rmtree(folder)
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(render_config(config), encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write the run folder '{folder}': {error.strerror}") from error
    forget_records_after(folder / "metrics.jsonl", training.steps_done)


def _say(process: Process, text: str) -> None:
    if process.is_main:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def _meta(config: SegConfig, dataset: SegmentationDataset) -> dict[str, Any]:
    """Describe the run in its checkpoints: how to rebuild the model, feed it, name its classes."""
    table = dataset.table
    return {
        "task": "segmentation",
        "model": _model_arguments(config, table.num_classes),
        "classes": table.names,
        "colors": table.colors,
        "mean": config.data.mean,
        "std": config.data.std,
        "data": config.data.model_dump(include={"dataset", "root", "val_split", "classes"}),
        "eval": {"mode": config.eval.mode, "crop": config.eval.crop or config.augment.crop},
        "config": config.model_dump(mode="json"),
        "versions": {"sceneparse": sceneparse.__version__, "torch": torch.__version__},
    }
