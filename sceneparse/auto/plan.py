"""The plan: settings with a reason each, from the data, the measured speed and the time left."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from sceneparse.auto.candidates import MIN_WIDTH, Candidate, Weights
from sceneparse.auto.facts import DataFacts
from sceneparse.auto.intake import Intake
from sceneparse.auto.measure import Measured
from sceneparse.config.loading import set_key, validate
from sceneparse.config.segmentation import SegConfig
from sceneparse.errors import InputError, first_few, one_line
from sceneparse.models.origin import IMAGENET
from sceneparse.models.resnet import RESNETS
from sceneparse.runtime.progress import format_seconds

# Times the root of the seconds: the steps below which a larger crop has not paid (measured in
# docs/how-to/auto.md), and below which a larger network is not tried.
_STEPS_PER_ROOT, _STEPS_OF_LARGER = 14, 45
# Parts of the run after which the schedule may be shortened and a checkpoint is saved.
_EPOCHS = 20
# The share of the training time that validations may take, and the most there are.
_VALIDATING, _MAX_VALIDATIONS = 0.05, 10
# The shares of an image's sides that crops show, from large to small.
_SHOWN = (1.07, 0.53)
# Steps take longer than measured where a run does more, such as logging; or at most so much less.
_SLOWER, _FASTER = 1.1, 1.25
_RECIPE = "as in camvid_mobilenet, which reaches a mean IoU of 0.735"
_HEAD = {
    "model.head": ("strip_pooling_plus", "6.1 points above fcn on CamVid: thin classes stay"),
    "model.head_options": ({"fine_strip": True}, "strips at stride 4: 1.4 points on CamVid"),
    "model.output_stride": (16, "a quarter of the cost of stride 8; the decoder brings stride 4"),
    "model.width": (256, _RECIPE),
    "model.aux": (False, "an auxiliary head gained 1.2 points on CamVid, within the noise of 2.7"),
}
_PRETRAINED = {
    **_HEAD,
    "model.zero_init_residual": (True, "mixed pooling begins with weight 0, as the identity"),
    "model.freeze": (1, "stage 1 of pretrained weights knows edges, and costs most memory"),
    "optim.name": ("adamw", _RECIPE),
    "optim.lr": (5e-4, f"of the backbone, {_RECIPE}"),
    "optim.head_lr_factor": (4.0, f"the head is new: 4 times the rate, {_RECIPE}"),
    "optim.weight_decay": (0.01, _RECIPE),
}
_SCRATCH = {
    **_HEAD,
    "model.width": (64, "a quarter of the usual 256, since a small network learns sooner"),
    "model.stem": ("plain", "1 convolution instead of 3"),
    "model.base_width": (32, "half of the usual 64, since a small network learns sooner"),
    "optim.name": ("adamw", "1 rate fits most networks, since it adapts to each weight"),
    "optim.lr": (2e-3, "4 times that of pretrained weights"),
    "optim.head_lr_factor": (1.0, "1, since all parts are new"),
    "optim.weight_decay": (0.01, _RECIPE),
}


@dataclass(frozen=True)
class Choice:
    """A setting by its dotted key, its value, and why."""

    setting: str
    value: Any
    reason: str


@dataclass(frozen=True)
class Plan:
    """Choices in the order of plan.yaml; a later choice of the same setting replaces an earlier."""

    choices: tuple[Choice, ...]

    def but(self, *choices: Choice) -> Plan:
        """Return the plan with more choices, except those that the user made."""
        merged = {choice.setting: choice for choice in self.choices}
        for choice in choices:
            fixed = choice.setting in merged and merged[choice.setting].reason == GIVEN
            if not fixed or choice.reason == GIVEN:
                merged[choice.setting] = choice
        return replace(self, choices=tuple(merged.values()))

    def config(self, **changes: object) -> SegConfig:
        """Return the configuration; `changes` are settings by keys with "__" for the dot."""
        settings: dict[str, Any] = {}
        for choice in self.choices:
            set_key(settings, choice.setting, choice.value)
        for key, value in changes.items():
            set_key(settings, key.replace("__", "."), value)
        return validate(settings, SegConfig, "the plan")

    def text(self, heading: Sequence[str]) -> str:
        """Write plan.yaml: an ordinary configuration, a reason behind every line."""
        lines = [f"# {one_line(line)}" for line in heading]
        sections: dict[str, list[Choice]] = {}
        for choice in self.choices:
            section, _, key = choice.setting.rpartition(".")
            sections.setdefault(section, []).append(replace(choice, setting=key))
        for section, choices in sections.items():
            indent = "  " if section else ""
            lines += [f"{section}:"] if section else []
            lines += [f"{indent}{_line(choice)}" for choice in choices]
        return "\n".join(lines) + "\n"


GIVEN = "given by you"


def _line(choice: Choice) -> str:
    text = yaml.safe_dump(choice.value, default_flow_style=True, width=10_000, allow_unicode=True)
    value = text.removesuffix("\n").removesuffix("\n...")
    return f"{choice.setting}: {value}  # {' '.join(choice.reason.split())}"


def first_plan(
    intake: Intake, facts: DataFacts, weights: Weights, output: str, given: Mapping[str, Any]
) -> Plan:
    """Return what data and weights decide; `given`: settings of the user, by dotted key."""
    train, val, (height, width) = facts.train_images, facts.val_images, facts.sizes[1]
    decoded = f"decoded, the images take {4 * height * width * train / 2**20:.0f} MB"
    flip = 0.0 if facts.sided else 0.5
    start = weights.reason if weights.pretrained is None else f"{weights.reason}; {_FEW} {train}"
    batch = min(4, train)
    choices = [
        Choice("output", output, f"the run folder; a checkpoint after each of {_EPOCHS} parts"),
        Choice("data.dataset", intake.dataset, f"the layout of {2 * (train + val)} files"),
        Choice("data.root", str(intake.root.resolve()), f"{train + val} images with masks"),
        Choice("data.train_split", intake.train_split, f"{train} images"),
        Choice("data.val_split", intake.val_split, f"{val} images"),
        Choice("data.cache", "auto", f"{decoded}; they stay in memory if that fits"),
        Choice("augment.flip", flip, facts.sided_reason),
        Choice(
            "augment.color_jitter", 0.3, "light varies; 0.4 and more changes gained -0.1 points"
        ),
        Choice("model.pretrained", weights.pretrained, start),
        *(Choice(k, value, reason) for k, (value, reason) in usual_settings(weights).items()),
        Choice("loss.terms", {"cross_entropy": 1.0, "dice": 1.0}, _DICE),
        Choice("train.batch_size", batch, f"{batch} of {train} images: many steps in a short time"),
    ]
    return with_given(Plan(tuple(choices)), given)


def usual_settings(weights: Weights) -> dict[str, tuple[Any, str]]:
    """Return network and optimiser for weights, each value with its reason."""
    is_resnet = weights.backbones[0] in RESNETS
    if weights.pretrained is None:
        of_resnets = ("model.stem", "model.base_width")
        return {k: v for k, v in _SCRATCH.items() if is_resnet or k not in of_resnets}
    if is_resnet and weights.pretrained == IMAGENET:
        return {**_PRETRAINED, "model.stem": ("plain", "1 convolution of 7x7, as the weights")}
    return _PRETRAINED


def check_given(given: Mapping[str, Any], *, scratch: bool) -> None:
    """Raise InputError if settings of the user are wrong in a plan, before data are read."""
    usual = _SCRATCH if scratch else {"model.pretrained": ("FILE", ""), **_PRETRAINED}
    settings = {"data.root": ("DATA", ""), **usual}
    plan = Plan(tuple(Choice(key, value, why) for key, (value, why) in settings.items()))
    with_given(plan, given).config()


def with_given(plan: Plan, given: Mapping[str, Any]) -> Plan:
    """Return the plan with the settings of the user, by dotted key, which nothing changes later."""
    values = {choice.setting: choice.value for choice in plan.choices}
    for key, value in given.items():
        section, _, rest = key.partition(".")
        name, _, inner = rest.partition(".")
        setting = f"{section}.{name}" if name else section
        if inner:  # a key of a table, such as model.head_options.fine_strip
            values[setting] = dict(values.get(setting) or {})
            set_key(values[setting], inner, value)
        else:
            values[setting] = value
        plan = plan.but(Choice(setting, values[setting], GIVEN))
    return plan


_DICE = "Dice added 3.0 points on CamVid's validation images"
_FEW = "networks from scratch need more images than"


def further_plan(choices: Sequence[Choice], model: str, output: str) -> Plan:
    """Return a plan that starts a new schedule from the best weights of an earlier one."""
    plan = Plan(tuple(choices))
    rate = plan.config().optim.lr
    return plan.but(
        Choice("output", output, f"the run folder; a checkpoint after each of {_EPOCHS} parts"),
        Choice("model.pretrained", model, "the best of 2 models of the earlier job"),
        Choice("optim.lr", rate / 2, f"half of {rate:g}: the weights are good already"),
        Choice("optim.head_lr_factor", 1.0, "1, since the head is not new"),
    )


def sized(plan: Plan, candidate: Candidate, facts: DataFacts) -> Plan:
    """Return the plan with the network and the sizes of a candidate, before it is measured."""
    (height, width), (name, thin), scale = facts.sizes[1], thinnest(facts), candidate.scale
    shown = f"{scale:.0%} of {width}x{height}; {name}, the thinnest, is then {thin * scale:.1f} px"
    share = candidate.crop[0] / (scale * height)
    scales = [round(share / of, 2) for of in _SHOWN]
    return plan.but(
        Choice("model.backbone", candidate.backbone, "the 1 to measure"),
        Choice("data.resize", candidate.settings["data.resize"], f"{shown} wide"),
        Choice("augment.crop", candidate.settings["augment.crop"], f"{share:.0%} of the height"),
        Choice("augment.scale", scales, "crops then show 53% to 107% of an image's sides"),
    )


@dataclass(frozen=True)
class Timed:
    """A measured candidate, the steps that fit into the time, those that it should have, a note."""

    candidate: Candidate
    measured: Measured
    steps_that_fit: int
    wanted: int
    note: str = ""

    @property
    def has_enough(self) -> bool:
        """Whether as many steps fit as it should have."""
        return self.steps_that_fit >= self.wanted


def steps_that_fit(measured: Measured, seconds: float, val_images: int) -> tuple[int, int]:
    """Return the training steps and the validations that fit into the seconds of a run."""
    validation = measured.image_seconds * val_images * _SLOWER
    share = math.floor(_VALIDATING * seconds / validation) if validation else _MAX_VALIDATIONS
    validations = min(max(share, 1), _MAX_VALIDATIONS)
    left = seconds - validations * validation
    return max(math.floor(left / (measured.step_seconds * _SLOWER)), 0), validations


def enough_steps(candidate: Candidate, seconds: float) -> int:
    """Return the steps that a candidate should have in a job of some seconds."""
    return round((_STEPS_OF_LARGER if candidate.larger else _STEPS_PER_ROOT) * math.sqrt(seconds))


def choose(timed: Sequence[Timed], facts: DataFacts) -> tuple[Timed, str]:
    """Return the finest candidate with enough steps, else the one with most, and the reason.

    `timed`: from cheap to fine. A candidate whose images are too small for the thinnest class comes
    only if no other has a third of these steps. Raises InputError if no step fits.
    """
    enough = [t for t in timed if t.has_enough]
    thin = [t for t in timed if t.candidate.scale >= smallest_scale(facts)]
    some = [t for t in thin if t.steps_that_fit >= t.wanted / 3]
    if enough and enough[-1] in thin:
        chosen = enough[-1]
        why = f"the finest of which at least {chosen.wanted} steps fit"
    elif some:
        name, width = thinnest(facts)
        chosen = some[0]
        seen = min(chosen.candidate.scale, 1.0) * width
        why = f"the cheapest that shows '{name}', {width:.1f} pixels wide, with {seen:.1f}"
    else:
        chosen = max(timed, key=lambda t: t.steps_that_fit)
        why = f"the one of which most steps fit; {chosen.wanted} would be better: give more time"
    if not chosen.steps_that_fit:
        raise InputError("the time is too short for one training step")
    return chosen, why


def thinnest(facts: DataFacts) -> tuple[str, float]:
    """Return the class with the thinnest regions and their width in pixels of the files."""
    known = [(w, n) for w, n in zip(facts.widths, facts.names, strict=True) if w is not None]
    width, name = min(known, default=(math.inf, "none"))
    return name, width


def smallest_scale(facts: DataFacts) -> float:
    """Return the scale of images below which the thinnest class is less than MIN_WIDTH wide."""
    _, width = thinnest(facts)
    return min(MIN_WIDTH / width, 1.0)


def scheduled(plan: Plan, timed: Timed, seconds: float, facts: DataFacts, why: str) -> Plan:
    """Return the plan with the schedule that fits into the seconds of the run."""
    measured, images = timed.measured, facts.val_images
    fitting, validations = steps_that_fit(measured, seconds, images)
    steps = max(fitting, 1)
    parts = min(_EPOCHS, steps)
    per_epoch, every = steps // parts, max(math.ceil(parts / validations), 1)
    # A run that is faster than measured, since its images are in memory, takes more parts.
    epochs = math.ceil(parts * _FASTER)
    passes = steps * plan.config().train.batch_size / facts.train_images
    step = f"{1000 * measured.step_seconds:.0f} ms per step measured"
    share = validations * images * measured.image_seconds / seconds
    validating = f"{1000 * measured.image_seconds:.0f} ms per image measured: {validations} "
    return plan.but(
        Choice("model.backbone", timed.candidate.backbone, why),
        Choice("train.steps_per_epoch", per_epoch, f"{step}: {steps} steps, {passes:.1f} passes"),
        Choice("train.epochs", epochs, f"at most; about {parts} parts of {per_epoch} steps fit"),
        Choice("train.minutes", round(seconds / 60, 3), f"{format_seconds(seconds)} are left"),
        Choice("eval.every", every, f"{validating}validations take {share:.0%} of the time"),
    )


def describe(facts: DataFacts) -> str:
    """Return the sizes, classes and thinnest class of the data, for the heading of a plan."""
    height, width = facts.sizes[1]
    name, thin = thinnest(facts)
    return (
        f"{facts.train_images} + {facts.val_images} images of about {width}x{height}, "
        f"{len(facts.names)} classes ({first_few(facts.names)}), the thinnest {name}: {thin:.1f} px"
    )
