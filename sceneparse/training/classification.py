"""From a configuration to the finished parts of a classification run, one for each seed."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from sceneparse.config.classification import ClsConfig
from sceneparse.config.loading import render_config
from sceneparse.data.device_loader import DeviceLoader, evaluation_batches
from sceneparse.data.image_folders import LabelledImages, load_classes, split_off
from sceneparse.errors import InputError, first_few
from sceneparse.inference.normalization import Normalization
from sceneparse.models.classification import Classifier, create_classifier
from sceneparse.runtime.distributed import Process, parallel_network
from sceneparse.runtime.precision import Compute
from sceneparse.runtime.signals import StopRequest
from sceneparse.training.optim import (
    Stepper,
    cosine_schedule,
    create_optimizer,
    milestone_schedule,
)
from sceneparse.training.run import Training
from sceneparse.training.start import (
    Start,
    begin_run,
    choose_compute,
    describe_run,
    open_run,
    validate_inputs,
)
from sceneparse.training.validation import validate_classifier

_EVALUATION_BATCH = 1000


def load_data(config: ClsConfig) -> tuple[LabelledImages, LabelledImages]:
    """Return the training and test images; raises InputError."""
    section = config.data
    train, test = (
        load_classes(section.dataset, section.root, split, section.size)
        for split in (section.train_split, section.test_split)
    )
    if train.classes != test.classes:
        raise InputError(
            f"the classes of {section.train_split} and {section.test_split} differ: "
            f"{first_few(set(train.classes) ^ set(test.classes))}"
        )
    if section.limit:
        # The same images for every seed.
        _, train = split_off(train, section.limit, 0, "data.limit")
    return train, test


def seed_folder(config: ClsConfig, seed: int) -> Path:
    """Return the run folder of one seed."""
    return Path(config.output) / f"seed-{seed}"


def _create_model(config: ClsConfig, train: LabelledImages, compute: Compute) -> Classifier:
    """Create the network on its device; raises InputError if it cannot train on a batch."""
    torch.manual_seed(config.seeds[0])
    model = create_classifier(
        config.model, len(train.classes), attention=config.attention, stem=config.stem
    )
    compute.place_model(model)
    batch_size = config.train.batch_size
    validate_inputs(
        model,
        (len(train) % batch_size or batch_size, *train.images.shape[1:]),
        _logits,
        remedy=f"the last batch has the rest of {len(train)} images; change train.batch_size",
    )
    return model


def _batches_of(data: LabelledImages | None, device: torch.device) -> list[Any]:
    return [] if data is None else evaluation_batches(data, _EVALUATION_BATCH, device)


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    logits: Tensor = model(images)
    return logits.float()


def _create_stepper(
    config: ClsConfig, model: nn.Module, steps_per_epoch: int, compute: Compute
) -> Stepper:
    optim = config.optim
    optimizer = create_optimizer(
        model,
        name=optim.name,
        lr=optim.lr,
        momentum=optim.momentum,
        nesterov=optim.nesterov,
        weight_decay=optim.weight_decay,
    )
    return Stepper(
        optimizer,
        _create_schedule(config, optimizer, steps_per_epoch),
        torch.amp.GradScaler(enabled=compute.dtype == torch.float16),
    )


def _create_schedule(config: ClsConfig, optimizer: Optimizer, steps_per_epoch: int) -> LambdaLR:
    optim = config.optim
    if optim.schedule == "cosine":
        return cosine_schedule(optimizer, steps=config.train.epochs * steps_per_epoch)
    milestones = optim.milestones if optim.schedule == "step" else []
    return milestone_schedule(
        optimizer, steps_per_epoch=steps_per_epoch, milestones=milestones, gamma=optim.gamma
    )


def _assemble(
    config: ClsConfig,
    start: Start,
    compute: Compute,
    model: Classifier,
    train: LabelledImages,
    test: LabelledImages,
    held_out: LabelledImages | None,
) -> Training:
    """Build the parts that depend on data and network, and put all together."""
    (seed,), settings = config.seeds, config.train
    mean, std = train.statistics()
    normalize = Normalization(config.data.mean or mean, config.data.std or std)
    loader = DeviceLoader(
        train,
        settings.batch_size,
        padding=config.augment.padding,
        mirror=config.augment.mirror,
        seed=seed,
        device=compute.device,
    )
    stop = StopRequest()
    return Training(
        folder=start.folder,
        process=start.process,
        compute=compute,
        normalize=normalize,
        sampler=loader,
        batches=lambda: loader,
        validate=partial(
            validate_classifier,
            test=_batches_of(test, compute.device),
            held_out=_batches_of(held_out, compute.device),
            normalize=normalize,
            compute=compute,
            stop=stop,
        ),
        model=model,
        parallel=parallel_network(model, start.process, compiled=settings.compile),
        forward=_logits,
        stepper=_create_stepper(config, model, loader.steps_per_epoch, compute),
        epochs=settings.epochs,
        loss=functional.cross_entropy,
        seed=seed,
        meta={
            **describe_run("classification", config, compute, normalize),
            "model": model.meta["model"],
            "classes": train.classes,
            "data": config.data.model_dump(include={"dataset", "root"}),
        },
        lock=start.lock,
        save_every=settings.save_every,
        most_bad_steps=settings.most_bad_steps,
        stop=stop,
    )


def prepare_seed(
    config: ClsConfig,
    seed: int,
    data: tuple[LabelledImages, LabelledImages],
    process: Process,
    *,
    resume: bool = False,
    overwrite: bool = False,
    accept_changes: bool = False,
) -> Training:
    """Build all parts of the run of one seed, then create its folder; raises InputError before."""
    # A resumed run is compared with its own seed, not with the list it was started from.
    config = config.model_copy(update={"seeds": [seed]})
    start = begin_run(
        seed_folder(config, seed),
        process,
        resume=resume,
        overwrite=overwrite,
        accept_changes=accept_changes,
    )
    compute = choose_compute(config.train.amp, start, channels_last=config.train.channels_last)
    train, test = data
    held_out = None
    if config.data.holdout:
        train, held_out = split_off(train, config.data.holdout, seed, "data.holdout")
    model = _create_model(config, train, compute)
    training = _assemble(config, start, compute, model, train, test, held_out)
    open_run(training, start, config, render_config(config))
    return training
