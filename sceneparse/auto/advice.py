"""Advice after a run: what would raise the score, each with its numbers.

The thresholds are rules of thumb, with the reason beside each. Nothing here looks at pictures.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sceneparse.auto.training_advice import (
    Advice,
    counted,
    overfitting_advice,
    setting_of,
    time_advice,
)
from sceneparse.errors import first_few
from sceneparse.evaluation.result import Evaluation
from sceneparse.metrics.confusion import TRUTH
from sceneparse.report.tables import span

# At an IoU of 0.6 and a Dice score of 0.75, a quarter of a class is wrong.
LOW_IOU = 0.6
# Classes that fewer training images show, or that fill less of them, usually gain from more images.
FEW_IMAGES, RARE_SHARE = 100, 0.005
# With a wider interval, networks that differ by 5 points of mean IoU cannot be told apart; the IoU
# of one class varies about twice as much.
WIDE_MEAN, WIDE_CLASS = 0.1, 0.2
# Scores of images vary with their classes: far below is 3 standard deviations, and 15 points.
FAR_DEVIATIONS, FAR_POINTS = 3, 0.15
# With fewer images the usual score is not known.
MIN_IMAGES = 8
# A fifth of a class taken for one other class is no matter of blurred outlines.
CONFUSED_SHARE = 0.2
# A tenth of the pixels is a usual share for outlines and unclear regions.
MUCH_IGNORED = 0.1
# A third of images that show nothing new.
MANY_DUPLICATES = 0.3
# Heads whose logits have stride 4, whatever the output stride of the backbone.
DETAILED_HEADS = {"deeplabv3plus", "strip_pooling_plus", "upernet"}
# Nobody reads more.
MAX_ADVICE, _MAX_NAMES, _MAX_CLASSES = 8, 5, 3


def advise(
    record: Mapping[str, Any], evaluation: Evaluation, log: Sequence[Mapping[str, Any]]
) -> list[Advice]:
    """Return what to do next, the most important first.

    `record`: the content of auto.json. `evaluation`: of the network that was kept. `log`: records
    of metrics.jsonl of the fine-tuning; empty if there was none.
    """
    facts = record["facts"]
    time, rises = time_advice(record, log)
    return [
        # First what makes the scores untrue, then what costs no labels, then labels and images.
        *twin_advice(facts),
        *absent_advice(facts, evaluation),
        *image_advice(evaluation),
        *(time if rises else ()),
        *overfitting_advice(log),
        *class_advice(facts, evaluation),
        *thin_advice(record, evaluation),
        *confusion_advice(evaluation),
        *interval_advice(evaluation),
        *ignored_advice(facts),
        *duplicate_advice(facts),
        *(() if rises else time),
    ][:MAX_ADVICE]


def twin_advice(facts: Mapping[str, Any]) -> Iterator[Advice]:
    """Yield advice if validation images look like training images."""
    twins, images = facts["twins"], facts["val_images"]
    if twins:
        yield Advice(
            "Validate on other images.",
            f"{twins} of {images} validation images look like a training image, so the scores are "
            "too high for new images. Choose validation images from other places or days.",
        )


def absent_advice(facts: Mapping[str, Any], evaluation: Evaluation) -> Iterator[Advice]:
    """Yield advice if no image shows a class, in training or validation."""
    names = evaluation.table.names
    shown = evaluation.by_image[:, TRUTH].sum(axis=0)
    looked_at = {"training": facts["looked_at"], "validation": len(evaluation.image_names)}
    untrained = [name for name, images in zip(names, facts["images"], strict=True) if not images]
    unscored = [name for name, pixels in zip(names, shown, strict=True) if not pixels]
    for missing, kind, effect in (
        (untrained, "training", "the network cannot learn"),
        (unscored, "validation", "nobody knows the IoU of"),
    ):
        if missing:
            yield Advice(
                f"Label {kind} images that show {first_few(missing, _MAX_NAMES)}.",
                f"{counted(len(missing), 'class', 'classes')} of {len(names)}: in 0 of "
                f"{looked_at[kind]} {kind} images, so {effect} "
                f"{'it' if len(missing) == 1 else 'them'}.",
            )


def image_advice(evaluation: Evaluation) -> Iterator[Advice]:
    """Yield advice if some images have scores far below the others: their masks may be wrong."""
    scores = evaluation.image_scores
    known = scores[~np.isnan(scores)]
    if len(known) < MIN_IMAGES:
        return
    middle = float(np.median(known))
    # The median distance of a normal distribution is 0.6745 standard deviations.
    deviation = float(np.median(np.abs(known - middle))) / 0.6745
    limit = middle - max(FAR_DEVIATIONS * deviation, FAR_POINTS)
    far = [int(k) for k in np.argsort(scores) if scores[k] < limit]
    if far:
        listed = [f"{evaluation.image_names[k]} ({scores[k]:.2f})" for k in far]
        yield Advice(
            f"Look at the masks of these images first: {first_few(listed, _MAX_NAMES)}.",
            f"{counted(len(far), 'validation image scores', 'validation images score')} below "
            f"{limit:.2f}; half of the {len(known)} score {middle:.2f} or more. Either a mask is "
            "wrong, or the image shows what training images do not.",
        )


def class_advice(facts: Mapping[str, Any], evaluation: Evaluation) -> Iterator[Advice]:
    """Yield advice if few training images or pixels show a class of low IoU, worst class first."""
    total, looked_at = max(sum(facts["pixels"]), 1), max(facts["looked_at"], 1)
    names, ious, images = evaluation.table.names, evaluation.scores.iou, facts["images"]
    shares = [pixels / total for pixels in facts["pixels"]]
    weak = [
        k
        for k in np.argsort(ious)
        if ious[k] < LOW_IOU and images[k]
        if images[k] / looked_at * facts["train_images"] < FEW_IMAGES or shares[k] < RARE_SHARE
    ]
    if weak:
        listed = [
            f"{names[k]}: IoU {_with_interval(evaluation, k)}, in {images[k]} of "
            f"{looked_at} training images, {100 * shares[k]:.2g}% of their pixels"
            for k in weak[:_MAX_CLASSES]
        ]
        yield Advice(
            f"Label more images that show {first_few([names[k] for k in weak], _MAX_NAMES)}.",
            f"{'; '.join(listed)}.",
        )


def thin_advice(record: Mapping[str, Any], evaluation: Evaluation) -> Iterator[Advice]:
    """Yield advice if a class of low IoU is thinner than the stride of the logits."""
    stride, factor = _stride(record), _resize_factor(record)
    names, ious = evaluation.table.names, evaluation.scores.iou
    thin = [
        (k, width * factor)
        for k, width in enumerate(record["facts"]["widths"])
        if stride is not None and width is not None and width * factor < stride
        if ious[k] < LOW_IOU
    ]
    if not thin:
        return
    if factor < 1:
        action = "Train on larger images: data.resize=null."
    elif stride == 4:
        action = "Take photos at a higher resolution, or from nearer."
    else:
        action = "Use a head with fine details: model.head=strip_pooling_plus."
    listed = [f"{names[k]} ({width:.1f} pixels wide, IoU {ious[k]:.2f})" for k, width in thin]
    yield Advice(
        action,
        f"The network decides for each {stride}x{stride} pixels, and these classes are thinner: "
        f"{first_few(listed, _MAX_NAMES)}.",
    )


def confusion_advice(evaluation: Evaluation) -> Iterator[Advice]:
    """Yield advice if a large share of a class is predicted as one other class."""
    names, counts = evaluation.table.names, evaluation.counts
    if len(names) == 2:
        return  # the IoU of the two says the same
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(shares, 0)
    pairs = [divmod(int(place), len(names)) for place in np.argsort(-shares, axis=None)]
    mixed = [(a, b) for a, b in pairs if shares[a, b] >= CONFUSED_SHARE]
    if mixed:
        listed = [
            f"{100 * shares[a, b]:.0f}% of {names[a]} is predicted as {names[b]}" for a, b in mixed
        ]
        pair = sorted(mixed[0])
        yield Advice(
            f"Check that all masks tell {names[pair[0]]} and {names[pair[1]]} apart by one rule.",
            f"In the validation images: {first_few(listed, _MAX_NAMES)}. Either the masks "
            "follow no single rule, or the network needs more images of both.",
        )


def interval_advice(evaluation: Evaluation) -> Iterator[Advice]:
    """Yield advice if few validation images leave the mean IoU, or that of classes, uncertain."""
    images, names = len(evaluation.image_names), evaluation.table.names
    found = evaluation.interval
    if found is None or math.isnan(found.low):
        yield Advice(
            "Label more validation images.",
            f"{counted(images, 'validation image does', 'validation images do')} not suffice for "
            "an interval of the mean IoU.",
        )
        return
    width = found.high - found.low
    shown = (evaluation.by_image[:, TRUTH] > 0).sum(axis=0)
    spans = [interval.high - interval.low for interval in evaluation.class_intervals or []]
    wide = [k for k in np.argsort(spans)[::-1] if spans[k] >= WIDE_CLASS]
    if width < WIDE_MEAN and not wide:
        return
    listed = [
        f"{names[k]}: {_with_interval(evaluation, k)}, in "
        f"{counted(int(shown[k]), 'validation image', 'validation images')}"
        for k in wide[:_MAX_CLASSES]
    ]
    reason = f"{images} validation images give a 95% interval of the mean IoU of {width:.2f}"
    if width >= WIDE_MEAN:
        # The width falls with the square root of the number of images.
        needed = math.ceil(images * (width / WIDE_MEAN) ** 2)
        reason += f"; about {needed} give one of {WIDE_MEAN:.2f}"
    action = f", above all of {first_few([names[k] for k in wide], _MAX_NAMES)}" if wide else ""
    wide_classes = f" IoU with a wide interval: {'; '.join(listed)}." if wide else ""
    yield Advice(f"Label more validation images{action}.", f"{reason}.{wide_classes}")


def ignored_advice(facts: Mapping[str, Any]) -> Iterator[Advice]:
    """Yield advice if many training pixels are ignored."""
    if facts["ignored"] >= MUCH_IGNORED:
        yield Advice(
            "Label the ignored regions too.",
            f"{100 * facts['ignored']:.0f}% of the training pixels are ignored: the network learns "
            "nothing from them, and may predict anything there.",
        )


def duplicate_advice(facts: Mapping[str, Any]) -> Iterator[Advice]:
    """Yield advice if many training images look like another."""
    found, images = facts["duplicates"], facts["looked_at"]
    if found >= MANY_DUPLICATES * images:
        yield Advice(
            "Label different scenes rather than neighbouring frames.",
            f"{found} of {images} training images look like another one and teach little.",
        )


def _stride(record: Mapping[str, Any]) -> int | None:
    """Return the stride of the logits, None if the plan does not tell."""
    whole = (setting_of(record, "model.head_options") or {}).get("decoder", True)
    if setting_of(record, "model.head") in DETAILED_HEADS and whole:
        return 4
    stride: int | None = setting_of(record, "model.output_stride")
    return stride


def _resize_factor(record: Mapping[str, Any]) -> float:
    """Return by how much the middle image is scaled before the network."""
    resize, sizes = setting_of(record, "data.resize"), record["facts"]["sizes"]
    if not resize or not sizes:
        return 1.0
    ((side, length),) = resize.items()
    middle = sizes[len(sizes) // 2]
    return float(length / (max(middle) if side == "long" else min(middle)))


def _with_interval(evaluation: Evaluation, k: int) -> str:
    """Return the IoU of class k, with its interval if there is one."""
    text = f"{evaluation.scores.iou[k]:.2f}"
    interval = evaluation.class_intervals[k] if evaluation.class_intervals else None
    if interval is None or math.isnan(interval.low):
        return text
    return f"{text} ({span(interval, '{:.2f}'.format)})"
