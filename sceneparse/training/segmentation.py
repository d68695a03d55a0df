"""Build the parts of a segmentation run from its configuration."""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from sceneparse.config.loading import render_config
from sceneparse.config.segmentation import SegConfig
from sceneparse.data.balance import class_weights, count_pixels, log_weights
from sceneparse.data.cache import CACHES
from sceneparse.data.datasets import SegmentationDataset, create_dataset
from sceneparse.data.labels import LabelTable
from sceneparse.data.loader import TensorSamples, batches, evaluation_loader, training_loader
from sceneparse.data.resizing import Resize
from sceneparse.data.sampling import EpochSampler
from sceneparse.data.transforms import training_transform
from sceneparse.errors import InputError
from sceneparse.inference.normalization import Normalization
from sceneparse.inference.protocols import Protocol, create_protocol
from sceneparse.layers.checkpointing import checkpoint_blocks
from sceneparse.losses import LossSettings, segmentation_loss
from sceneparse.models import create_segmentation_model
from sceneparse.models.origin import Origin
from sceneparse.models.pretrained import load_pretrained
from sceneparse.models.segmentation import SegmentationModel, has_mixed_pooling
from sceneparse.runs.checkpoint import Saved
from sceneparse.runtime.distributed import Process, from_main, parallel_network
from sceneparse.runtime.precision import Compute
from sceneparse.training.data_check import check_crop, check_data
from sceneparse.training.ema import MovingAverage
from sceneparse.training.normalization import choose_normalization
from sceneparse.training.optim import Schedule, Stepper, create_optimizer
from sceneparse.training.pictures import draw_data
from sceneparse.training.run import Training
from sceneparse.training.sizes import validate_sizes
from sceneparse.training.start import Start, begin_run, checked_origin, open_run
from sceneparse.training.validation import Validated, validate_segmentation

logger = logging.getLogger(__name__)

# Settings of the section `train` that a run reads itself.
_RUN_SETTINGS = {"epochs", "minutes", "accumulate", "save_every", "most_bad_steps"}


def _logits_at_stride(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Run the network; return logits at stride, since the loss resizes them itself."""
    return cast("dict[str, Tensor]", model(images, upsample=False))


def _create_sampler(
    config: SegConfig, dataset: SegmentationDataset, process: Process
) -> EpochSampler:
    uniform = config.data.sampling == "uniform"
    return EpochSampler(
        len(dataset),
        config.train.batch_size,
        sampling=config.data.sampling,
        counts=None if uniform else from_main(process, lambda: count_pixels(dataset)),
        stream=config.data.stream,
        steps_per_epoch=config.train.steps_per_epoch,
        accumulate=config.train.accumulate,
        seed=config.seed,
        rank=process.rank,
        world_size=process.world_size,
    )


def training_samples(
    config: SegConfig, dataset: SegmentationDataset, normalize: Normalization
) -> TensorSamples:
    """Return the samples of a dataset as a run trains on them: augmented crops."""
    transform = training_transform(
        **config.augment.model_dump(),
        fill=[round(255 * value) for value in normalize.mean],
        ignore_index=dataset.table.ignore_index,
    )
    return TensorSamples(dataset, transform, config.seed)


def _auto_class_weights(start: Start) -> str:
    """Return the rule that "auto" stands for; a resumed run keeps the one that it began with."""
    if start.saved is None:
        return "damped"
    return str(start.saved.meta.get("auto_class_weights", "median_frequency"))


def _loss_settings(config: SegConfig, dataset: SegmentationDataset, start: Start) -> LossSettings:
    section, process = config.loss, start.process
    weights, rule = section.class_weights, "given"
    if isinstance(weights, str):
        rule = _auto_class_weights(start) if weights == "auto" else weights
        weights = class_weights(rule, from_main(process, lambda: count_pixels(dataset)))
    if weights is not None and len(weights) != dataset.table.num_classes:
        raise InputError(
            f"loss.class_weights has {len(weights)} numbers, "
            f"the dataset has {dataset.table.num_classes} classes"
        )
    if weights is not None:
        log_weights(dataset.table.names, weights, rule)
    return LossSettings(
        ignore_index=dataset.table.ignore_index,
        class_weights=None if weights is None else torch.tensor(weights, device=process.device),
        **section.model_dump(exclude={"terms", "aux_weight", "class_weights"}),
    )


def model_arguments(
    config: SegConfig, num_classes: int, saved: Saved | None = None
) -> dict[str, Any]:
    """Return the arguments that rebuild the network, as checkpoints store them.

    A resumed run (`saved`) keeps its own. Synchronised and frozen norms are "batch" there: the
    difference matters in training only.
    """
    if saved is not None:
        return dict(saved.meta["model"])
    settings = config.model.model_dump(exclude={"pretrained", "freeze"})
    norm = "group" if config.model.norm == "group" else "batch"
    return {**settings, "norm": norm, "num_classes": num_classes}


def _create_model(
    config: SegConfig, arguments: Mapping[str, Any], compute: Compute
) -> SegmentationModel:
    """Create the network on its device, randomly initialised."""
    torch.manual_seed(config.seed)
    settings = config.model
    norm = settings.norm
    if norm == "sync" and compute.device.type != "cuda":
        norm = "batch"
    built = "batch" if norm == "frozen" else norm
    model = create_segmentation_model(**{**arguments, "norm": built})
    if norm == "frozen":
        model.freeze_norms()
    model.freeze_stages(settings.freeze)
    if settings.zero_init_residual and not has_mixed_pooling(model.head):
        logger.info(f"model.zero_init_residual changes nothing in head '{settings.head}'")
    if config.train.gradient_checkpointing and not checkpoint_blocks(model.backbone):
        raise InputError(
            f"backbone '{settings.backbone}' has no sequences of blocks; "
            "set train.gradient_checkpointing: false"
        )
    compute.place_model(model)
    return model


def validate_settings(config: SegConfig, model: SegmentationModel) -> None:
    """Raise InputError for settings of a new run that make no sense for its network.

    A resumed run keeps them, since it may have begun with an earlier version.
    """
    if config.model.norm == "frozen":
        model.require_norms()
    for name, crop in (("augment.crop", config.augment.crop), ("eval.crop", config.eval.crop)):
        if crop is not None:
            model.require_features(*crop, name)


def create_stepper(
    config: SegConfig, model: SegmentationModel, steps_per_epoch: int, compute: Compute
) -> Stepper:
    """Create the optimiser of a network, its schedule and its averaged weights."""
    optim, decay = config.optim, config.train.ema
    optimizer = create_optimizer(model, **optim.model_dump(exclude={"poly_power", "clip_norm"}))
    steps = config.train.epochs * steps_per_epoch
    schedule = Schedule("poly", steps, power=optim.poly_power)
    return Stepper(
        optimizer,
        schedule.attach(optimizer),
        compute.scaler(),
        clip_norm=optim.clip_norm,
        averaged=None if decay is None else MovingAverage(model, decay),
        bends=schedule.bends,
    )


def _create_validation(
    config: SegConfig,
    start: Start,
    dataset: SegmentationDataset,
    normalize: Normalization,
    class_weights: Tensor | None,
) -> Callable[[nn.Module], Validated]:
    process = start.process
    loading = config.data.model_dump(include={"workers", "timeout"})
    return partial(
        validate_segmentation,
        dataset=dataset,
        loader=evaluation_loader(
            dataset, rank=process.rank, world_size=process.world_size, **loading
        ),
        protocol=validation_protocol(config),
        normalize=normalize,
        compute=start.compute,
        stop=start.stop,
        class_weights=class_weights,
        process=process,
    )


def protocol_arguments(config: SegConfig) -> dict[str, Any]:
    """Return the arguments of create_protocol; windows have the training crop's size by default."""
    settings = config.eval.model_dump(exclude={"every", "protocol"})
    crop = config.eval.crop or config.augment.crop
    return {"name": config.eval.protocol, **settings, "crop": crop}


def validation_protocol(config: SegConfig) -> Protocol:
    """Create the protocol that a run validates with."""
    data = config.data.model_dump(include={"dataset", "resize"})
    return create_protocol(**data, **protocol_arguments(config))


def describe_model(
    config: SegConfig, arguments: Mapping[str, Any], table: LabelTable, origin: Origin | None
) -> dict[str, Any]:
    """Return what checkpoints store to rebuild the network and to evaluate it on its data.

    `origin`: of the pretrained weights.
    """
    return {
        "task": "segmentation",
        "model": arguments,
        "classes": table.names,
        "colors": table.colors,
        "pretrained": origin,
        "data": config.data.model_dump(
            include={"dataset", "root", "val_split", "classes", "bit_depth", "resize"}
        ),
        "eval": protocol_arguments(config),
    }


def _assemble(
    config: SegConfig, start: Start, train_set: SegmentationDataset, val_set: SegmentationDataset
) -> Training:
    """Build all parts of the run; raises InputError if they do not fit each other."""
    data, settings, table = config.data, config.train, train_set.table
    pretrained = config.model.pretrained
    arguments = model_arguments(config, table.num_classes, start.saved)
    # Quick checks come first, then masks are counted; weights, which may be large or far, are last.
    model = _create_model(config, arguments, start.compute)
    origin = checked_origin(start, arguments, pretrained)
    normalize = choose_normalization(data.mean, data.std, arguments, pretrained, start.saved)
    sampler = _create_sampler(config, train_set, start.process)
    validate_sizes(
        model,
        _logits_at_stride,
        crops=(sampler.micro_batch, *config.augment.crop),
        protocol=validation_protocol(config),
        dataset=val_set,
    )
    if start.saved is None:
        validate_settings(config, model)
    loss = _loss_settings(config, train_set, start)
    samples = training_samples(config, CACHES[data.cache](train_set), normalize)
    loader = training_loader(samples, sampler, workers=data.workers, timeout=data.timeout)
    validate = _create_validation(config, start, val_set, normalize, loss.class_weights)
    if pretrained is not None and start.saved is None:
        load_pretrained(model, pretrained, classes=table.names, setting="model.pretrained")
    return Training(
        **vars(start),
        normalize=normalize,
        sampler=sampler,
        batches=lambda: batches(loader),
        validate=validate,
        model=model,
        forward=_logits_at_stride,
        parallel=parallel_network(
            model, start.process, accumulate=settings.accumulate, compiled=settings.compile
        ),
        stepper=create_stepper(config, model, sampler.steps_per_epoch, start.compute),
        loss=partial(
            segmentation_loss,
            terms=config.loss.terms,
            settings=loss,
            aux_weight=config.loss.aux_weight,
        ),
        seed=config.seed,
        meta={
            **describe_model(config, arguments, table, origin),
            "auto_class_weights": _auto_class_weights(start),
        },
        eval_every=config.eval.every,
        validation_images=len(val_set),
        **settings.model_dump(include=_RUN_SETTINGS),
    )


def assemble_run(
    config: SegConfig,
    process: Process,
    train_set: SegmentationDataset,
    val_set: SegmentationDataset,
    *,
    resume: bool = False,
    licences: str = "warn",
) -> Training:
    """Build all parts of a run from open splits, without a check of the data or a folder.

    `resume`, `licences`: see `begin_run`. Raises InputError if the parts do not fit each other.
    """
    settings = config.train
    start = begin_run(
        Path(config.output),
        process,
        settings.amp,
        settings.channels_last,
        resume=resume,
        licences=licences,
    )
    return _assemble(config, start, train_set.resized(Resize.of(config.data.resize)), val_set)


def prepare_training(
    config: SegConfig,
    process: Process,
    **earlier: Any,  # noqa: ANN401 - see begin_run
) -> Training:
    """Build and check all parts of a run, then create its folder.

    `earlier`: how to treat an earlier run, see `begin_run`. Raises InputError before anything is
    written.
    """
    data, augment, settings = config.data, config.augment, config.train
    start = begin_run(Path(config.output), process, settings.amp, settings.channels_last, **earlier)
    with start.lock.released_on_error():
        train_set, val_set = (
            create_dataset(data.dataset, data.root, split, data.classes, bit_depth=data.bit_depth)
            for split in (data.train_split, data.val_split)
        )
        splits = (data.train_split, train_set), (data.val_split, val_set)
        from_main(process, lambda: check_data(splits, data.dataset, data.check))
        train_set = train_set.resized(Resize.of(data.resize))
        from_main(process, lambda: check_crop(train_set, augment.crop, augment.scale))
        training = _assemble(config, start, train_set, val_set)
        open_run(training, config, render_config(config))
        if process.is_main:
            samples = training_samples(config, train_set, training.normalize)
            draw_data(training.folder, samples, cast("EpochSampler", training.sampler))
    limit = "" if settings.minutes is None else f" (or {settings.minutes:g} minutes)"
    logger.info(
        f"{len(train_set)} training and {len(val_set)} validation images, "
        f"{train_set.table.num_classes} classes; {training.sampler.steps_per_epoch} steps of "
        f"{settings.batch_size} images x {settings.epochs} epochs{limit} on "
        f"{process.world_size} x {process.device.type} in {start.compute.name}"
    )
    return training
