"""Build the parts of a classification run from its configuration, one run per seed."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sceneparse.config.classification import ClsConfig
from sceneparse.config.loading import render_config
from sceneparse.data.device_loader import DeviceLoader, evaluation_batches
from sceneparse.data.image_folders import LabelledImages, load_classes, split_off
from sceneparse.errors import InputError, first_few
from sceneparse.models.classification import Classifier, create_classifier
from sceneparse.models.pretrained import load_pretrained
from sceneparse.runtime.distributed import Process, parallel_network
from sceneparse.runtime.precision import Compute
from sceneparse.training.normalization import Statistics, choose_normalization
from sceneparse.training.optim import Schedule, Stepper, create_optimizer
from sceneparse.training.run import Training
from sceneparse.training.start import (
    Start,
    begin_run,
    checked_origin,
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


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    logits: Tensor = model(images)
    return logits.float()


def _create_stepper(
    config: ClsConfig, model: nn.Module, steps_per_epoch: int, compute: Compute
) -> Stepper:
    optim = config.optim
    settings = optim.model_dump(exclude={"schedule", "milestones", "gamma"})
    optimizer = create_optimizer(model, **settings)
    milestones = [epoch * steps_per_epoch for epoch in optim.milestones]
    steps = config.train.epochs * steps_per_epoch
    schedule = Schedule(optim.schedule, steps, milestones, optim.gamma)
    return Stepper(optimizer, schedule.attach(optimizer), compute.scaler())


def _assemble(
    config: ClsConfig,
    start: Start,
    train: LabelledImages,
    validated: Mapping[str, LabelledImages],
) -> Training:
    """Build all other parts of the run; `validated`: the images of each validation, by name."""
    (seed,), settings, compute = config.seeds, config.train, start.compute
    model = _create_model(config, train, compute)
    origin = checked_origin(start, model.meta["model"], config.pretrained)
    normalize = choose_normalization(
        config.data.mean,
        config.data.std,
        model.meta["model"],
        config.pretrained,
        start.saved,
        otherwise=Statistics(*train.statistics(), "those of the training images"),
    )
    if config.pretrained is not None and start.saved is None:
        load_pretrained(model, config.pretrained, classes=train.classes)
    loader = DeviceLoader(
        train, settings.batch_size, **config.augment.model_dump(), seed=seed, device=compute.device
    )
    parts = {
        name: evaluation_batches(images, _EVALUATION_BATCH, compute.device)
        for name, images in validated.items()
    }
    return Training(
        **vars(start),
        normalize=normalize,
        sampler=loader,
        batches=lambda: loader,
        validate=partial(
            validate_classifier,
            parts=parts,
            normalize=normalize,
            compute=compute,
            stop=start.stop,
        ),
        model=model,
        parallel=parallel_network(model, start.process, compiled=settings.compile),
        forward=_logits,
        stepper=_create_stepper(config, model, loader.steps_per_epoch, compute),
        loss=functional.cross_entropy,
        seed=seed,
        meta={
            "task": "classification",
            "model": model.meta["model"],
            "classes": train.classes,
            "pretrained": origin,
            "data": config.data.model_dump(include={"dataset", "root"}),
        },
        **settings.model_dump(include={"epochs", "save_every", "most_bad_steps"}),
    )


def prepare_seed(
    config: ClsConfig,
    seed: int,
    data: tuple[LabelledImages, LabelledImages],
    process: Process,
    **earlier: Any,  # noqa: ANN401 - see begin_run
) -> Training:
    """Build all parts of the run of one seed, then create its folder.

    `data`: training and test images. `earlier`: how to treat an earlier run, see `begin_run`.
    Raises InputError before anything is written.
    """
    # A resumed run is compared with its own seed, not with the list it was started from.
    config = config.model_copy(update={"seeds": [seed]})
    settings, train, validated = config.train, data[0], {"test": data[1]}
    start = begin_run(
        seed_folder(config, seed), process, settings.amp, settings.channels_last, **earlier
    )
    with start.lock.released_on_error():
        if config.data.holdout:
            train, validated["holdout"] = split_off(
                train, config.data.holdout, seed, "data.holdout"
            )
        training = _assemble(config, start, train, validated)
        open_run(training, config, render_config(config))
    return training
