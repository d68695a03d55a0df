"""The network of the first rung, a light head on a frozen backbone, and its training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from statistics import median

import numpy as np
import torch
from torch import Tensor

from sceneparse.auto.features import Crops, trained_maps
from sceneparse.config.segmentation import SegConfig
from sceneparse.data.balance import class_weights
from sceneparse.data.labels import LabelTable, count_labels
from sceneparse.errors import NumericalError
from sceneparse.inference.normalization import Normalization
from sceneparse.inference.protocols import Protocol
from sceneparse.losses import LossSettings, segmentation_loss
from sceneparse.models import create_segmentation_model
from sceneparse.models.origin import IMAGENET
from sceneparse.models.pretrained import load_pretrained
from sceneparse.models.segmentation import SegmentationModel
from sceneparse.models.stored import read_description
from sceneparse.models.timm_backbone import PYRAMID
from sceneparse.runtime.distributed import Process
from sceneparse.runtime.precision import Compute, choose_dtype
from sceneparse.runtime.progress import Progress
from sceneparse.training.normalization import choose_normalization
from sceneparse.training.optim import Stepper
from sceneparse.training.segmentation import create_stepper, model_arguments, validation_protocol

_HEAD = {"head": "strip_pooling_plus", "head_options": {"context": "none"}}
_WIDTH = 128
_OPTIM = {"name": "adamw", "lr": 1e-2, "head_lr_factor": 1.0, "momentum": 0.9, "weight_decay": 0.01}
_LOSS = {"terms": {"cross_entropy": 1.0, "dice": 1.0}, "class_weights": None}
# Many small steps learn more in the same time than few large ones, unless steps wait for a GPU.
_BATCH = {"cpu": 2, "cuda": 8}
_TIMED_STEPS = 4


@dataclass(frozen=True)
class Light:
    """The light network, and all that it is run with."""

    config: SegConfig
    table: LabelTable
    model: SegmentationModel
    compute: Compute
    normalize: Normalization
    protocol: Protocol


def light_config(config: SegConfig, device: torch.device) -> SegConfig:
    """Return the settings of a run with the light head of the first rung, its loss and optimiser.

    A backbone without a map of stride 4 gets an FCN head. ResNets have attention blocks only if the
    weights are those of a model of ours, since ImageNet's have none.
    """
    given, pretrained = config.model, str(config.model.pretrained)
    settings = given.model_dump() | _HEAD | {"width": _WIDTH, "aux": False, "freeze": 0}
    settings["norm"] = "group" if given.norm == "group" else "batch"
    if pretrained == IMAGENET or not read_description(pretrained)[1]:
        settings["attention"] = "none"
    arguments = {k: v for k, v in settings.items() if k not in ("pretrained", "freeze")}
    with torch.device("meta"):
        outline = create_segmentation_model(**arguments | {"head": "fcn", "head_options": {}})
    if outline.backbone.strides[0] != 4:  # type: ignore[index]
        settings |= {"head": "fcn", "head_options": {}}
    train = {
        "batch_size": _BATCH.get(device.type, _BATCH["cpu"]),
        **{"epochs": 1, "steps_per_epoch": None, "minutes": None},
        **{"accumulate": 1, "ema": None, "compile": False, "gradient_checkpointing": False},
    }
    plan = config.model_dump()
    plan |= {
        "model": settings,
        "loss": plan["loss"] | _LOSS,
        "optim": plan["optim"] | _OPTIM,
        "train": plan["train"] | train,
    }
    return SegConfig.model_validate(plan)


def build_light(config: SegConfig, table: LabelTable, process: Process) -> Light:
    """Create the network with its pretrained weights, frozen but for head and pyramid."""
    settings = light_config(config, process.device)
    arguments, pretrained = model_arguments(settings, table.num_classes), settings.model.pretrained
    compute = Compute(
        process.device,
        choose_dtype(settings.train.amp, process.device),
        settings.train.channels_last,
    )
    torch.manual_seed(settings.seed)
    model = create_segmentation_model(**arguments)
    load_pretrained(model, str(pretrained), classes=table.names, setting="model.pretrained")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and _is_trained(name))
    compute.place_model(model)
    normalize = choose_normalization(
        settings.data.mean, settings.data.std, arguments, pretrained, None
    )
    protocol = validation_protocol(settings)
    return Light(settings, table, model, compute, normalize, protocol)


def _is_trained(name: str) -> bool:
    return not name.startswith("backbone.") or name.startswith(PYRAMID)


def trained_state(model: SegmentationModel) -> dict[str, Tensor]:
    """Copy the tensors that the first rung trains: those of head and pyramid."""
    return {k: x.clone() for k, x in model.state_dict().items() if _is_trained(k)}


def load_trained(model: SegmentationModel, state: dict[str, Tensor]) -> None:
    """Load the result of `trained_state`."""
    model.load_state_dict({**model.state_dict(), **state})


def weights_of_rule(rule: str, crops: Crops, light: Light) -> Tensor | None:
    """Return the class weights (K,) of a rule for the targets of the crops; None for "none"."""
    if rule == "none":
        return None
    num_classes = light.table.num_classes
    counts = np.stack([count_labels(x.cpu().numpy(), num_classes) for x in crops.targets])
    weights = class_weights("damped" if rule == "auto" else rule, counts)
    return torch.tensor(weights, device=light.compute.device)


def train_head(light: Light, crops: Crops, steps: int, weights: Tensor | None) -> None:
    """Train head and pyramid for a number of steps, from what they are now."""
    with Progress("first model: train", steps, "steps") as progress:
        for loss in progress.over(take_steps(light, crops, steps, weights)):
            progress.note = partial("loss {:.3f}".format, loss)
    if not all(tensor.isfinite().all() for tensor in trained_state(light.model).values()):
        raise NumericalError("the weights of the first rung's head are not finite")


def time_step(light: Light, crops: Crops, clock: Callable[[], float] = time.monotonic) -> float:
    """Return the seconds of a training step; the weights stay as they are."""
    start = trained_state(light.model)
    times = [clock()]
    for _ in take_steps(light, crops, 1 + _TIMED_STEPS, None):
        times.append(clock())
    load_trained(light.model, start)
    # The first step is slower.
    return max(median(after - before for before, after in pairwise(times[1:])), 1e-6)


def take_steps(light: Light, crops: Crops, steps: int, weights: Tensor | None) -> Iterator[float]:
    """Train for a number of steps; yield their losses. Seeds decide order and dropout."""
    model, compute, config = light.model, light.compute, light.config
    loss_of = partial(
        segmentation_loss,
        terms=config.loss.terms,
        settings=LossSettings(light.table.ignore_index, weights, config.loss.label_smoothing),
    )
    stepper: Stepper = create_stepper(config, model, steps, compute)
    torch.manual_seed(config.seed)
    model.eval()
    model.head.train()
    for numbers in _batches(len(crops), steps, config.train.batch_size, config.seed):
        stepper.begin(model.head)
        maps, targets = crops.batch(numbers, compute)
        with compute.autocast():
            logits = model.head(trained_maps(model.backbone, maps, crops.size))
        loss = loss_of({"out": logits}, targets)
        stepper.scaler.scale(loss).backward()
        yield stepper.step(loss.detach()).loss
    model.eval()


def _batches(count: int, steps: int, size: int, seed: int) -> Iterator[list[int]]:
    """Yield the numbers of the crops of each step: from one shuffled pass after the other."""
    size, order, generator = min(size, count), list[int](), np.random.default_rng(seed)
    for _ in range(steps):
        if len(order) < size:
            order += generator.permutation(count).tolist()
        yield order[:size]
        del order[:size]
