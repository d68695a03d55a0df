"""The page and the advice of `sceneparse auto`, on made-up numbers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sceneparse.auto.advice import DETAILED_HEADS, advise
from sceneparse.auto.page import write_auto_page
from sceneparse.auto.training_advice import Advice, time_advice
from sceneparse.data.datasets import create_dataset
from sceneparse.data.labels import Label, LabelTable
from sceneparse.evaluation.result import Evaluation
from sceneparse.metrics.intervals import Interval, mean_iou_intervals
from sceneparse.models.heads import HEADS
from sceneparse.training.examples import KeptExamples

Values = dict[str, Any]


def table_of(names: list[str]) -> LabelTable:
    return LabelTable(
        tuple(Label(k, k, name, (9 * k % 256, 90, 30)) for k, name in enumerate(names))
    )


def evaluation_of(
    counts: list[list[list[int]]], names: list[str], *, intervals: bool = True
) -> Evaluation:
    """Return the evaluation of images with these confusion matrices (N, K, K)."""
    matrices = np.array(counts)
    rows = np.diagonal(matrices, axis1=1, axis2=2), matrices.sum(2), matrices.sum(1)
    by_image = np.stack(rows, axis=1)
    mean, classes = mean_iou_intervals(by_image) if intervals else (None, None)
    images = [f"photo_{k}" for k in range(len(counts))]
    total = matrices.sum(axis=0)
    return Evaluation(
        "whole", "cityscapes", table_of(names), images, total, by_image, mean, classes
    )


def record_of(names: list[str], **facts: Any) -> Values:
    """Return the record of a run with which nothing is wrong."""
    count = len(names)
    return {
        "command": "sceneparse auto data/mine --time 20m",
        "minutes": 20.0,
        "sceneparse": "1.0",
        "machine": "2 cores",
        "date": "2030-01-02",
        "source": "data/mine",
        "intake": {"notes": ["Images and masks were paired by name."]},
        "facts": {
            "names": names,
            "train_images": 400,
            "val_images": 40,
            "looked_at": 400,
            "sizes": [[60, 80], [60, 80], [120, 160]],
            "pixels": [1000] * count,
            "images": [300] * count,
            "ignored": 0.01,
            "widths": [20.0] * count,
            "sided": [],
            "sided_reason": "No class names say left or right.",
            "duplicates": 3,
            "twins": 0,
            "notes": ["Two masks are odd."],
            **facts,
        },
        "measured": [],
        "choices": [],
        "first": None,
        "phases": {"reading": 4.0, "training": 50.0},
        "seconds_used": 60.0,
        "chosen": "run",
        "scores": {"run": 0.7},
        "warnings": [],
    }


GOOD = [[90, 5], [5, 90]]


def curve(*scores: float, loss: float = 0.5, validation: tuple[float, ...] = ()) -> list[Values]:
    """Return the log of a run with these validations, at steps 10, 20, ..."""
    log: list[Values] = []
    for k, score in enumerate(scores):
        step = 10 * (k + 1)
        log.append({"kind": "train", "step": step, "epoch": k, "loss": loss, "lr": 0.1})
        log[-1]["head_lr"] = 0.2
        tested = validation[k] if validation else 0.4
        log.append({"kind": "val", "step": step, "epoch": k, "seconds": 6.0 * step})
        log[-1] |= {"loss": tested, "mean_iou": score}
    return log


def test_good_numbers_need_no_advice() -> None:
    names = ["road", "rest"]
    assert advise(record_of(names), evaluation_of([GOOD] * 40, names), []) == []


@pytest.mark.parametrize(
    ("facts", "action", "reason"),
    [
        ({"twins": 7}, "Validate on other images.", "7 of 40 validation images look like"),
        ({"ignored": 0.34}, "Label the ignored regions too.", "34% of the training pixels"),
        ({"duplicates": 120}, "Label different scenes rather than neighbouring frames.", "120 of"),
        (
            {"images": [0, 9]},
            "Label training images that show road.",
            "1 class of 2: in 0 of 400 training",
        ),
    ],
)
def test_advice_about_the_data(facts: Values, action: str, reason: str) -> None:
    names = ["road", "rest"]
    (advice,) = advise(record_of(names, **facts), evaluation_of([GOOD] * 40, names), [])
    assert advice.action == action
    assert advice.reason.startswith(reason)


def test_rising_flat_and_short_curves() -> None:
    record = record_of(["road", "rest"])
    # Of six validations, those at steps 40, 50 and 60 count.
    found, rises = time_advice(record, curve(0.1, 0.2, 0.9, 0.50, 0.52, 0.54))
    assert (rises, found[0].action) == (True, "Train 20 minutes more: --time +20m.")
    assert found[0].reason == (
        "The score still rises: from step 40 to 60 the mean IoU of the validation images changed "
        "by +0.040, to 0.540."
    )
    found, rises = time_advice(record, curve(0.1, 0.2, 0.3, 0.700, 0.702, 0.701))
    assert (rises, found[0].action) == (False, "Do not train longer on these images.")
    assert "changed by +0.001, to 0.701" in found[0].reason
    assert time_advice(record, curve(0.1, 0.9)) == ([], False)
    record["choices"] = [{"setting": "train.batch_size", "value": 40, "reason": "fits"}]
    ((advice,), rises) = time_advice(record, curve(0.1, 0.9))  # 20 steps of 40 of 400 images
    assert (rises, advice.reason) == (True, "Each training image was seen 2.0 times only.")
    record["facts"]["train_images"] = 80
    assert time_advice(record, curve(0.1, 0.9)) == ([], False)


def test_more_time_if_the_first_rung_is_better() -> None:
    record = record_of(["road", "rest"])
    record |= {"chosen": "first", "scores": {"first": 0.41, "run": 0.38}}
    ((advice,), rises) = time_advice(record, [])
    assert rises
    assert "0.380, below the 0.410" in advice.reason


def test_overfitting_is_told_from_a_good_fit() -> None:
    names = ["road", "rest"]
    record, evaluation = record_of(names), evaluation_of([GOOD] * 40, names)

    def reasons(log: list[Values]) -> list[str]:
        return [advice.reason for advice in advise(record, evaluation, log)]

    apart = curve(0.5, 0.6, loss=0.1, validation=(0.25, 0.25))
    start = "The network learns its training images by heart (overfitting). Loss: "
    assert reasons(apart) == [f"{start}0.250 on validation images, 0.100 on training images."]
    turned = curve(0.5, 0.6, loss=0.3, validation=(0.4, 0.5))
    assert reasons(turned) == [
        f"{start}on validation images it rose from 0.400 (step 10) to 0.500."
    ]
    assert reasons(curve(0.5, 0.6, loss=0.3, validation=(0.4, 0.45))) == []


def test_a_weak_class_asks_for_images_only_if_few_show_it() -> None:
    names = ["road", "pole", "rest"]
    weak = [[90, 0, 0], [15, 20, 15], [0, 0, 90]]  # 30% of pole as road, as rest
    evaluation = evaluation_of([weak] * 40, names)
    few = record_of(names, images=[300, 23, 300], pixels=[900, 100, 9000])
    actions = [advice.action for advice in advise(few, evaluation, [])]
    assert actions == [
        "Label more images that show pole.",
        "Check that all masks tell road and pole apart by one rule.",
    ]
    reason = advise(few, evaluation, [])[0].reason
    assert reason == (
        "pole: IoU 0.40 (0.40 to 0.40), in 23 of 400 training images, 1% of their pixels."
    )
    confused = advise(few, evaluation, [])[1].reason
    assert "30% of pole is predicted as road, 30% of pole is predicted as rest" in confused
    assert len(advise(record_of(names), evaluation, [])) == 1


@pytest.mark.parametrize(
    ("choices", "action"),
    [
        (
            {"model.output_stride": 16},
            "Use a head with fine details: model.head=strip_pooling_plus.",
        ),
        ({"model.output_stride": 16, "data.resize": {"long": 40}}, "Train on larger images"),
        ({"model.head": "strip_pooling_plus", "model.output_stride": 16}, None),
        ({}, None),
    ],
)
def test_thin_classes_are_measured_against_the_stride(choices: Values, action: str | None) -> None:
    names = ["road", "pole"]
    record = record_of(names, widths=[30.0, 5.0])
    record["choices"] = [{"setting": k, "value": v, "reason": "so"} for k, v in choices.items()]
    weak = evaluation_of([[[90, 0], [30, 20]]] * 40, names)
    found = [advice.action for advice in advise(record, weak, [])]
    assert [text for text in found if action and text.startswith(action)] == found
    assert len(found) == (action is not None)
    assert set(HEADS) >= DETAILED_HEADS


def test_images_far_below_the_rest_are_named() -> None:
    names = ["road", "rest"]
    evaluation = evaluation_of([*[GOOD] * 39, [[10, 90], [90, 10]]], names)
    advice = advise(record_of(names), evaluation, [])[0]
    assert advice.action == "Look at the masks of these images first: photo_39 (0.05)."
    assert advice.reason.startswith(
        "1 validation image scores below 0.75; half of the 40 score 0.90"
    )


def test_a_wide_interval_says_how_many_images_are_missing() -> None:
    names = ["road", "rest"]
    counts = [GOOD, [[60, 35], [35, 60]]] * 4
    evaluation = evaluation_of(counts, names)
    assert isinstance(evaluation.interval, Interval)
    width = evaluation.interval.high - evaluation.interval.low
    (advice,) = advise(record_of(names), evaluation, [])
    assert advice.action.startswith("Label more validation images, above all of ")
    needed = int(np.ceil(8 * (width / 0.1) ** 2))
    assert f"of {width:.2f}; about {needed} give one of 0.10." in advice.reason
    (none,) = advise(record_of(names), evaluation_of([GOOD], names), [])
    assert none.reason.startswith("1 validation image does not suffice")


NASTY = '<script>alert("x")</script>'


@pytest.fixture
def shown(tmp_path: Path) -> KeptExamples:
    """Two predicted images of two classes, from a folder."""
    for kind in ("images", "masks"):
        (tmp_path / "data" / kind / "val").mkdir(parents=True)
    for k in range(2):
        mask = np.zeros((12, 16), np.uint8)
        mask[:, 8 + k :] = 1
        Image.fromarray(mask).save(tmp_path / f"data/masks/val/photo_{k}.png")
        Image.fromarray(np.dstack([mask * 200] * 3)).save(
            tmp_path / f"data/images/val/photo_{k}.png"
        )
    (tmp_path / "data/classes.txt").write_text(f"road\n{NASTY}\n")
    dataset = create_dataset("folder", str(tmp_path / "data"), "val")
    kept = KeptExamples(dataset, [0, 1], worst=1)
    kept.add(0, np.ones((12, 16), np.uint8), 0.3)
    kept.add(1, np.zeros((12, 16), np.uint8), 0.2)
    return kept


def page_of(folder: Path, shown: KeptExamples, record: Values, **more: Any) -> str:
    names = record["facts"]["names"]
    count = len(names)
    counts = 50 * np.eye(count, dtype=int) + 1
    evaluation = evaluation_of([counts.tolist()] * 2, names, intervals=more.pop("intervals", True))
    path = folder / "out" / "report.html"
    values = {"log": curve(0.5, 0.6), "advice": [Advice("Do <this>.", "7 of 9.")], **more}
    values["model"] = {"their licence": "mit <2>"}
    write_auto_page(path, record, evaluation, shown, **values)
    return path.read_text(encoding="utf-8")


def test_the_page_shows_everything_and_needs_nothing_else(
    tmp_path: Path, shown: KeptExamples
) -> None:
    record = record_of(["road", NASTY], widths=[None, 4.0])
    record["choices"] = [
        {"setting": "augment.crop", "value": [289, 385], "reason": "Fits & is fast."},
        {"setting": "data.resize", "value": None, "reason": "No need <so far>."},
    ]
    record["measured"] = [
        {
            "name": "small",
            "step_seconds": 0.25,
            "steps": 10,
            "image_seconds": 0.1,
            "memory_mb": 900.0,
        }
        | {"steps_that_fit": 77, "note": ""},
        {"name": "large", "step_seconds": 4.0, "steps": 3, "image_seconds": None, "memory_mb": None}
        | {"steps_that_fit": None, "note": "too <slow>"},
    ]
    record["scores"] = {"first": 0.41, "run": 0.63}
    changed = {"kind": "replan", "step": 15, "epochs_before": 9, "epochs_after": 7}
    record["warnings"] = ["No weights <here>."]
    page = page_of(tmp_path, shown, record, log=[*curve(0.5, 0.6), changed])
    assert "<script>alert" not in page
    assert page.count("&lt;script&gt;alert") >= 4
    for text in (
        *("[289, 385]", "Fits &amp; is fast.", "null", "No need &lt;so far&gt;.", "250", "77"),
        *(
            "too &lt;slow&gt;",
            "No weights &lt;here&gt;.",
            "Do &lt;this&gt;.",
            "7 of 9.",
            "at step 15: 7 epochs instead of 9",
        ),
        *("mit &lt;2&gt;", "<code>sceneparse auto data/mine --time 20m</code>", "1.0, 2030-01-02"),
        *("1.0 of 20 minutes", "frozen backbone and light head 0.410; fine-tuning 0.630"),
        *(
            "Images and masks were paired by name.",
            "Two masks are odd.",
            "4.0 px",
            "80x60, 80x60, 160x120 (smallest",
        ),
        "mask of photo_1: mean IoU",
        f"sceneparse auto {tmp_path / 'out'} --time +20m",
        f"sceneparse predict {tmp_path / 'out/run'} PHOTOS",
        f"sceneparse export {tmp_path / 'out/run'} --format onnx",
    ):
        assert text in page, text
    # Nothing is loaded from elsewhere.
    sources = re.findall(r"(?:src|href)=\"([^\"]*)\"|url\(([^)]*)\)", page)
    assert sources
    assert all("".join(pair).startswith("data:image/") for pair in sources)
    assert "@import" not in page
    assert page.count("<details>") == 0


def test_the_page_without_fine_tuning_or_intervals(tmp_path: Path, shown: KeptExamples) -> None:
    record = record_of(["road", "rest"])
    record |= {"chosen": "first", "scores": {"first": 0.41}}
    page = page_of(tmp_path, shown, record, log=[], advice=[], intervals=False)
    assert "There was no fine-tuning." in page
    assert "Nothing stands out" in page
    assert "95% interval" not in page
    assert f"sceneparse predict {tmp_path / 'out/first'} PHOTOS" in page


def test_long_tables_are_folded(tmp_path: Path, shown: KeptExamples) -> None:
    page = page_of(tmp_path, shown, record_of([f"class {k}" for k in range(150)]))
    assert page.count("<summary>All 150 classes</summary>") == 2
    assert "The 10 classes of lowest IoU, of 150." in page
