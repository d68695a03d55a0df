"""From a configuration to the finished parts of a segmentation run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sceneparse.config.loading import render_config
from sceneparse.config.segmentation import SegConfig
from sceneparse.data.balance import PixelCounts, class_weights, count_pixels
from sceneparse.data.cache import CACHES
from sceneparse.data.datasets import SegmentationDataset, create_dataset, spread
from sceneparse.data.loader import (
    AugmentedSamples,
    batches,
    evaluation_loader,
    training_loader,
)
from sceneparse.data.quick_check import check_samples
from sceneparse.data.sampling import EpochSampler
from sceneparse.data.transforms import training_transform
from sceneparse.errors import InputError, unknown_name
from sceneparse.inference.normalization import Normalization
from sceneparse.inference.protocols import Protocol, create_protocol
from sceneparse.layers.checkpointing import checkpoint_blocks
from sceneparse.losses import LOSSES, LossSettings, segmentation_loss
from sceneparse.models import create_segmentation_model
from sceneparse.models.segmentation import SegmentationModel
from sceneparse.models.weights import load_backbone
from sceneparse.runtime.distributed import Process, check_on_main, parallel_network
from sceneparse.runtime.precision import Compute
from sceneparse.runtime.signals import StopRequest
from sceneparse.training.ema import MovingAverage
from sceneparse.training.optim import Stepper, create_optimizer, poly_schedule
from sceneparse.training.run import Loss, Training
from sceneparse.training.start import (
    Start,
    begin_run,
    choose_compute,
    describe_run,
    open_run,
    validate_inputs,
)
from sceneparse.training.validation import validate_segmentation

logger = logging.getLogger(__name__)


def _logits_at_stride(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Run the network; return logits at stride, since the loss resizes them itself."""
    outputs: dict[str, Tensor] = model(images, upsample=False)
    return outputs


def _check_data(check: str, datasets: Sequence[SegmentationDataset]) -> None:
    """Decode samples before step 0: all of them, or 500 evenly spread ones of a large dataset."""
    for dataset in datasets:
        if check == "none":
            return
        limit = len(dataset) if check == "all" or len(dataset) <= 2000 else 500
        check_samples(dataset, spread(len(dataset), limit))
        if limit < len(dataset):
            logger.info(f"checked {limit} of {len(dataset)} samples; `sceneparse check` checks all")


def _create_sampler(
    config: SegConfig, dataset: SegmentationDataset, process: Process
) -> EpochSampler:
    uniform = config.data.sampling == "uniform"
    return EpochSampler(
        len(dataset),
        config.train.batch_size,
        sampling=config.data.sampling,
        counts=None if uniform else _count_pixels(dataset, process),
        stream=config.data.stream,
        accumulate=config.train.accumulate,
        seed=config.seed,
        rank=process.rank,
        world_size=process.world_size,
    )


def _count_pixels(dataset: SegmentationDataset, process: Process) -> PixelCounts:
    counted: list[PixelCounts] = []
    check_on_main(process, lambda: counted.append(count_pixels(dataset)))
    # The other processes read the counts that rank 0 has cached.
    return counted[0] if counted else count_pixels(dataset)


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
        extra=augment.extra,
        fill=[round(255 * value) for value in config.data.mean],
        ignore_index=dataset.table.ignore_index,
    )
    kept = CACHES[config.data.cache](dataset)
    samples = AugmentedSamples(kept, transform, config.seed)
    return training_loader(
        samples, sampler, workers=config.data.workers, timeout=config.data.timeout
    )


def _create_loss(config: SegConfig, dataset: SegmentationDataset, process: Process) -> Loss:
    section = config.loss
    for name in section.terms:
        if name not in LOSSES:
            raise unknown_name("loss", name, LOSSES)
    weights = section.class_weights
    if isinstance(weights, str):
        rule = "median_frequency" if weights == "auto" else weights
        weights = class_weights(rule, _count_pixels(dataset, process))
        named = zip(dataset.table.names, weights, strict=True)
        logger.info("class weights: " + ", ".join(f"{name} {weight:.3g}" for name, weight in named))
    if weights is not None and len(weights) != dataset.table.num_classes:
        raise InputError(
            f"loss.class_weights has {len(weights)} numbers, "
            f"the data set has {dataset.table.num_classes} classes"
        )
    settings = LossSettings(
        ignore_index=dataset.table.ignore_index,
        class_weights=None if weights is None else torch.tensor(weights, device=process.device),
        label_smoothing=section.label_smoothing,
        ohem_threshold=section.ohem_threshold,
        ohem_keep=section.ohem_keep,
        focal_gamma=section.focal_gamma,
    )
    return partial(
        segmentation_loss, terms=section.terms, settings=settings, aux_weight=section.aux_weight
    )


def model_arguments(config: SegConfig, num_classes: int) -> dict[str, Any]:
    """Return the arguments that rebuild the network, as checkpoints keep them.

    They do not tell whether norms are synchronised or frozen, which matters in training only.
    """
    settings = config.model.model_dump(exclude={"pretrained", "freeze"})
    norm = "group" if config.model.norm == "group" else "batch"
    return {**settings, "norm": norm, "num_classes": num_classes}


def _create_model(
    config: SegConfig, num_classes: int, compute: Compute, *, fresh: bool
) -> SegmentationModel:
    """Create the network on its device; `fresh`: load pretrained weights if any are configured.

    Raises InputError.
    """
    torch.manual_seed(config.seed)
    settings = config.model
    arguments = model_arguments(config, num_classes)
    if settings.norm != "sync" or compute.device.type == "cuda":
        arguments["norm"] = settings.norm
    model = create_segmentation_model(**arguments)
    if fresh and settings.pretrained is not None:
        load_backbone(model.backbone, settings.backbone, settings.pretrained, stem=settings.stem)
    model.freeze_stages(settings.freeze)
    if config.train.gradient_checkpointing and not checkpoint_blocks(model.backbone):
        raise InputError(
            f"backbone '{settings.backbone}' has no sequences of blocks; "
            "set train.gradient_checkpointing: false"
        )
    compute.place_model(model)
    return model


def _create_stepper(
    config: SegConfig, model: SegmentationModel, steps_per_epoch: int, compute: Compute
) -> Stepper:
    optim = config.optim
    optimizer = create_optimizer(
        model,
        name=optim.name,
        lr=optim.lr,
        head_lr_factor=optim.head_lr_factor,
        momentum=optim.momentum,
        weight_decay=optim.weight_decay,
    )
    steps = config.train.epochs * steps_per_epoch
    decay = config.train.ema
    return Stepper(
        optimizer,
        poly_schedule(optimizer, steps=steps, power=optim.poly_power),
        torch.amp.GradScaler(enabled=compute.dtype == torch.float16),
        clip_norm=optim.clip_norm,
        averaged=None if decay is None else MovingAverage(model, decay),
    )


def _create_evaluation_loader(
    config: SegConfig, dataset: SegmentationDataset, process: Process
) -> DataLoader[Any]:
    return evaluation_loader(
        dataset,
        rank=process.rank,
        world_size=process.world_size,
        workers=config.data.workers,
        timeout=config.data.timeout,
    )


def _create_protocol(config: SegConfig) -> Protocol:
    settings = _eval_settings(config)
    return create_protocol(settings.pop("name"), dataset=config.data.dataset, **settings)


def _eval_settings(config: SegConfig) -> dict[str, Any]:
    """Return the arguments of create_protocol; windows have the training crop's size by default."""
    settings = config.eval.model_dump(exclude={"every", "protocol"})
    return {
        "name": config.eval.protocol,
        **settings,
        "crop": config.eval.crop or config.augment.crop,
    }


def _assemble(
    config: SegConfig,
    start: Start,
    compute: Compute,
    model: SegmentationModel,
    sampler: EpochSampler,
    train_set: SegmentationDataset,
    val_set: SegmentationDataset,
) -> Training:
    """Build the parts that depend on data and network, and put all together."""
    process, settings = start.process, config.train
    normalize = Normalization(config.data.mean, config.data.std)
    loader = _create_loader(config, train_set, sampler)
    stop = StopRequest()
    return Training(
        folder=start.folder,
        process=process,
        compute=compute,
        normalize=normalize,
        sampler=sampler,
        batches=lambda: batches(loader),
        validate=partial(
            validate_segmentation,
            dataset=val_set,
            loader=_create_evaluation_loader(config, val_set, process),
            protocol=_create_protocol(config),
            normalize=normalize,
            compute=compute,
            stop=stop,
        ),
        model=model,
        forward=_logits_at_stride,
        parallel=parallel_network(
            model, process, accumulate=settings.accumulate, compiled=settings.compile
        ),
        stepper=_create_stepper(config, model, sampler.steps_per_epoch, compute),
        epochs=settings.epochs,
        eval_every=config.eval.every,
        accumulate=settings.accumulate,
        loss=_create_loss(config, train_set, process),
        seed=config.seed,
        meta={
            **describe_run("segmentation", config, compute, normalize),
            "model": model_arguments(config, train_set.table.num_classes),
            "classes": train_set.table.names,
            "colors": train_set.table.colors,
            "data": config.data.model_dump(include={"dataset", "root", "val_split", "classes"}),
            "eval": _eval_settings(config),
        },
        lock=start.lock,
        save_every=settings.save_every,
        most_bad_steps=settings.most_bad_steps,
        stop=stop,
    )


def prepare_training(
    config: SegConfig,
    process: Process,
    *,
    resume: bool = False,
    overwrite: bool = False,
    accept_changes: bool = False,
) -> Training:
    """Check everything that can be checked and build all parts; then create the run folder.

    Raises InputError before anything is written.
    """
    start = begin_run(
        Path(config.output),
        process,
        resume=resume,
        overwrite=overwrite,
        accept_changes=accept_changes,
    )
    compute = choose_compute(config.train.amp, start, channels_last=config.train.channels_last)
    train_set, val_set = (
        create_dataset(config.data.dataset, config.data.root, split, config.data.classes)
        for split in (config.data.train_split, config.data.val_split)
    )
    check_on_main(process, lambda: _check_data(config.data.check, (train_set, val_set)))
    sampler = _create_sampler(config, train_set, process)
    model = _create_model(config, train_set.table.num_classes, compute, fresh=start.saved is None)
    validate_inputs(
        model,
        (sampler.micro_batch, 3, *config.augment.crop),
        _logits_at_stride,
        remedy="change augment.crop or train.batch_size, or set model.norm: group",
    )
    training = _assemble(config, start, compute, model, sampler, train_set, val_set)
    open_run(training, start, config, render_config(config))
    logger.info(
        f"{len(train_set)} training and {len(val_set)} validation images, "
        f"{train_set.table.num_classes} classes; {sampler.steps_per_epoch} steps of "
        f"{config.train.batch_size} images x {config.train.epochs} epochs on "
        f"{process.world_size} x {process.device.type} in {compute.name}"
    )
    return training
