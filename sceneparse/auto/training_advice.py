"""Advice from the log of a training: more time, or more images."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# A point of mean IoU within a third of the training: another run as long gains as much or more.
RISING = 0.01
# Fewer validations are no curve; then the number of passes over the images must do. Fine-tuning
# usually gains until each image was seen tens of times.
MIN_VALIDATIONS, FEW_PASSES = 3, 10
# Loss terms and augmentation make the training loss the larger one, unless images are learned by
# heart. A validation loss that has grown by a fifth has turned, and not by chance.
OVERFIT_RATIO, TURNED = 2.0, 1.2


@dataclass(frozen=True)
class Advice:
    """What to do, and the reason with its numbers; both are whole sentences."""

    action: str
    reason: str


def time_advice(
    record: Mapping[str, Any], log: Sequence[Mapping[str, Any]]
) -> tuple[list[Advice], bool]:
    """Return advice about more time, and whether more time would help.

    The slope of the validation mean IoU over the last third of the steps decides; if fine-tuning
    ended below the first rung, it had too little time. With too few validations for a curve, the
    number of passes over the images decides.
    """
    more = max(round(record["minutes"]), 1)
    action = f"Train {counted(more, 'minute', 'minutes')} more: --time +{more}m."
    first, run = (record["scores"].get(name) for name in ("first", "run"))
    if record["chosen"] == "first" and run is not None and first is not None:
        reason = (
            f"Fine-tuning reached a mean IoU of {run:.3f}, below the {first:.3f} of the frozen "
            "backbone: it had too little time."
        )
        return [Advice(action, reason)], True
    points = [(r["step"], r["mean_iou"]) for r in _of_kind(log, "val", "mean_iou")]
    if len(points) < MIN_VALIDATIONS:
        passes = _passes(record, log)
        if passes is None or passes >= FEW_PASSES:
            return [], False
        return [Advice(action, f"Each training image was seen {passes:.1f} times only.")], True
    last = [point for point in points if point[0] >= points[-1][0] * 2 / 3]
    last = last if len(last) >= MIN_VALIDATIONS else points[-MIN_VALIDATIONS:]
    steps, scores = np.array(last, dtype=float).T
    slope = float(np.polyfit(steps - steps[0], scores, 1)[0])
    gain = slope * (steps[-1] - steps[0])
    reason = (
        f"from step {steps[0]:.0f} to {steps[-1]:.0f} the mean IoU of the validation images "
        f"changed by {gain:+.3f}, to {scores[-1]:.3f}"
    )
    if gain >= RISING:
        return [Advice(action, f"The score still rises: {reason}.")], True
    flat = f"The score is flat: {reason}. More labelled images will help more."
    return [Advice("Do not train longer on these images.", flat)], False


def overfitting_advice(log: Sequence[Mapping[str, Any]]) -> Iterator[Advice]:
    """Yield advice if the training loss is far below the validation loss, or that loss turned."""
    training, tested = _of_kind(log, "train", "loss"), _of_kind(log, "val", "loss")
    if not training or not tested:
        return
    last_tenth = [record["loss"] for record in training[-max(len(training) // 10, 1) :]]
    final, last = float(np.mean(last_tenth)), tested[-1]["loss"]
    least = min(tested, key=lambda record: record["loss"])
    if last >= OVERFIT_RATIO * final:
        reason = f"{last:.3f} on validation images, {final:.3f} on training images"
    elif last >= TURNED * least["loss"]:
        reason = f"on validation images it rose from {least['loss']:.3f} (step {least['step']}) "
        reason += f"to {last:.3f}"
    else:
        return
    yield Advice(
        "Label more training images, as different from each other as possible.",
        f"The network learns its training images by heart (overfitting). Loss: {reason}.",
    )


def _passes(record: Mapping[str, Any], log: Sequence[Mapping[str, Any]]) -> float | None:
    """Return how often the training saw each image, None if the plan or the log do not tell."""
    batch, images = setting_of(record, "train.batch_size"), record["facts"]["train_images"]
    if batch is None or not log or not images:
        return None
    return float(log[-1]["step"] * batch / images)


def _of_kind(log: Sequence[Mapping[str, Any]], kind: str, key: str) -> list[Mapping[str, Any]]:
    """Return the records of a kind that have a finite number under `key`."""
    found = [record for record in log if record["kind"] == kind]
    return [r for r in found if r.get(key) is not None and math.isfinite(r[key])]


def setting_of(record: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401 - any setting
    """Return the value that a setting got in the plan, None if the plan does not name it."""
    return next((row["value"] for row in record["choices"] if row["setting"] == name), None)


def counted(number: int, one: str, many: str) -> str:
    """Return a number and its noun, `one` or `many`."""
    return f"{number} {one if number == 1 else many}"
