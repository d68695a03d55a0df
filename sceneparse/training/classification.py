"""From a configuration to the finished parts of a classification run, one for each seed."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

import sceneparse
from sceneparse.config.classification import ClsConfig
from sceneparse.config.loading import render_config
from sceneparse.data.classes import LabelledImages, load_classes, split_off
from sceneparse.data.device_loader import DeviceLoader, evaluation_batches
from sceneparse.errors import InputError, first_few
from sceneparse.inference.normalization import Normalization
from sceneparse.models.classification import create_classifier
from sceneparse.runtime.distributed import Process
from sceneparse.runtime.precision import Compute, amp_name, training_step
from sceneparse.runtime.signals import StopRequest
from sceneparse.training.loop import Stepper
from sceneparse.training.optim import cosine_schedule, create_optimizer, milestone_schedule
from sceneparse.training.run import Training
from sceneparse.training.start import (
    begin_run,
    choose_precision,
    create_folder,
    refuse_untrainable,
    resume_run,
)
from sceneparse.training.validation import validate_classifier

_EVALUATION_BATCH = 1000
# Images that say which precision is the fastest.
_MEASURED_BATCH = 16


def load_data(config: ClsConfig) -> tuple[LabelledImages, LabelledImages]:
    """Read the training and test images; raises InputError."""
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
    # What a resumed run is compared with is its own seed, not the list it was started from.
    config = config.model_copy(update={"seeds": [seed]})
    folder = seed_folder(config, seed)
    beginning = begin_run(
        folder, process, resume=resume, overwrite=overwrite, accept_changes=accept_changes
    )
    saved = beginning.saved
    layout = Compute(process.device, channels_last=config.train.channels_last)
    train, test = data
    held_out = None
    if config.data.holdout:
        train, held_out = split_off(train, config.data.holdout, seed, "data.holdout")
    mean, std = train.statistics()
    normalize = Normalization(config.data.mean or mean, config.data.std or std)
    loader = DeviceLoader(
        train,
        config.train.batch_size,
        padding=config.augment.padding,
        mirror=config.augment.mirror,
        seed=seed,
        device=process.device,
    )
    torch.manual_seed(seed)
    model = create_classifier(
        config.model, len(train.classes), attention=config.attention, stem=config.stem
    )
    layout.place_model(model)
    refuse_untrainable(
        model,
        (len(train) % config.train.batch_size or config.train.batch_size, *train.images.shape[1:]),
        _logits,
        remedy=f"the last batch has what is left of {len(train)} images; change train.batch_size",
    )
    shape = (min(config.train.batch_size, _MEASURED_BATCH), *train.images.shape[1:])
    measured = partial(training_step, model, _logits, shape)
    dtype = choose_precision(config.train.amp, saved, process, measured)
    compute = replace(layout, dtype=dtype)
    stop = StopRequest()
    training = Training(
        folder=folder,
        process=process,
        compute=compute,
        normalize=normalize,
        sampler=loader,
        batches=lambda: loader,
        validate=partial(
            validate_classifier,
            test=evaluation_batches(test, _EVALUATION_BATCH, process.device),
            held_out=_batches_of(held_out, process.device),
            normalize=normalize,
            compute=compute,
            stop=stop,
        ),
        model=model,
        parallel=torch.compile(model) if config.train.compile else model,  # type: ignore[arg-type]
        forward=_logits,
        stepper=_create_stepper(config, model, loader.steps_per_epoch, dtype),
        epochs=config.train.epochs,
        eval_every=1,
        accumulate=1,
        loss=functional.cross_entropy,
        seed=seed,
        meta={
            "task": "classification",
            "model": model.meta["model"],
            "classes": train.classes,
            "mean": normalize.mean,
            "std": normalize.std,
            "data": config.data.model_dump(include={"dataset", "root"}),
            "amp": amp_name(dtype),
            "config": config.model_dump(mode="json"),
            "versions": {"sceneparse": sceneparse.__version__, "torch": torch.__version__},
        },
        lock=beginning.lock,
        save_every=config.train.save_every,
        most_bad_steps=config.train.most_bad_steps,
        stop=stop,
    )
    resume_run(training, config, beginning)
    create_folder(training, render_config(config), beginning)
    return training


def _batches_of(data: LabelledImages | None, device: torch.device) -> list[Any]:
    return [] if data is None else evaluation_batches(data, _EVALUATION_BATCH, device)


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    logits: Tensor = model(images)
    return logits.float()


def _create_stepper(
    config: ClsConfig, model: nn.Module, steps_per_epoch: int, dtype: torch.dtype | None
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
        optimizer=optimizer,
        schedule=_create_schedule(config, optimizer, steps_per_epoch),
        scaler=torch.amp.GradScaler(enabled=dtype == torch.float16),
    )


def _create_schedule(config: ClsConfig, optimizer: Optimizer, steps_per_epoch: int) -> LambdaLR:
    optim = config.optim
    if optim.schedule == "cosine":
        return cosine_schedule(optimizer, steps=config.train.epochs * steps_per_epoch)
    milestones = optim.milestones if optim.schedule == "step" else []
    return milestone_schedule(
        optimizer, steps_per_epoch=steps_per_epoch, milestones=milestones, gamma=optim.gamma
    )
