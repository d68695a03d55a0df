"""Write the page about a run of `sceneparse auto`: what was found, decided and reached."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sceneparse.auto.curves import draw_auto_curves
from sceneparse.auto.record import model_of
from sceneparse.auto.training_advice import Advice, setting_of
from sceneparse.data.labels import LabelTable
from sceneparse.evaluation.page import most_confused, page_plots
from sceneparse.evaluation.result import Evaluation, as_dict
from sceneparse.report.pages import example_layers, figure_of_layers, figure_uri, write_page
from sceneparse.report.pictures import Example
from sceneparse.runtime.shell import command_line
from sceneparse.training.examples import KeptExamples

# Pictures of each kind.
_WORST, _TYPICAL = 4, 2
_CONFUSIONS = 8
# Longer tables of classes are folded: the classes of lowest IoU, or the rarest, are shown.
_LONG, _SHORT = 20, 10
# What the scores of a record are of, and the settings that name the network.
_MODELS = {
    "earlier": "earlier model",
    "first": "frozen backbone and light head",
    "run": "fine-tuning",
}
_NETWORK = {"model.head": "head", "model.backbone": "backbone"}


def write_auto_page(
    path: Path,
    record: Mapping[str, Any],
    evaluation: Evaluation,
    shown: KeptExamples,
    log: Sequence[Mapping[str, Any]],
    advice: Sequence[Advice],
    model: Mapping[str, str],
) -> None:
    """Write report.html of a run; pictures are inside of it.

    `record`: the content of auto.json. `evaluation`: of the network that was kept, with intervals;
    `shown`: the examples kept by it (`worst` may exceed the pictures: look-alikes are skipped).
    `log`: records of metrics.jsonl of the fine-tuning, empty if there was none. `model`: facts.
    """
    facts, table = record["facts"], evaluation.table
    galleries = _galleries(evaluation, shown)
    pictures = [example for examples in galleries.values() for _, example in examples]
    seen = {k for e in pictures for k in (*np.unique(e.truth), *np.unique(e.prediction))}
    values = {
        "title": f"Scene parser for {Path(record['source']).name or record['source']}",
        "record": record,
        "facts": facts,
        "evaluation": evaluation,
        "result": as_dict(evaluation),
        "verdict": verdict(record, evaluation),
        "galleries": {
            heading: [_pair(e, evaluation.image_scores[k], table) for k, e in examples]
            for heading, examples in galleries.items()
        },
        "seen": [label for number, label in enumerate(table.classes) if number in seen],
        "advice": advice,
        "model": model,
        "by_iou": _order(np.nan_to_num(evaluation.scores.iou, nan=2.0)),
        "by_pixels": _order(np.array(facts["pixels"], dtype=float)),
        "shares": _shares(facts),
        "confusions": most_confused(evaluation.counts, table.names)[:_CONFUSIONS],
        "plots": {name: figure_uri(plot) for name, plot in page_plots(evaluation).items()},
        "curves": _curves(record, log),
        "replans": [r for r in log if r["kind"] == "replan"],
        "commands": commands(path.parent, record),
        "setting": _setting,
        "made": {
            "version": record["sceneparse"],
            "time": record["date"],
            **{key: record[key] for key in ("command", "machine")},
        },
    }
    write_page("auto.html", path, values)


def verdict(record: Mapping[str, Any], evaluation: Evaluation) -> dict[str, str]:
    """Return the sentences below the title: score, time, network, and both rungs."""
    images, interval = len(evaluation.image_names), evaluation.interval
    known = interval is not None and not np.isnan(interval.low)
    within = f", 95% interval {interval.low:.3f} to {interval.high:.3f}" if known else ""  # type: ignore[union-attr]
    parts = {name: setting_of(record, setting) for setting, name in _NETWORK.items()}
    network = ", ".join(f"{name} {value}" for name, value in parts.items() if value is not None)
    scores = [
        f"{kind} {record['scores'][name]:.3f}"
        for name, kind in _MODELS.items()
        if record["scores"].get(name) is not None
    ]
    return {
        "score": f"{evaluation.scores.mean_iou:.3f}",
        "meaning": f"mean IoU of {images} validation image{'s' * (images != 1)}{within}",
        "time": f"{record['seconds_used'] / 60:.1f} of {record['minutes']:g} minutes",
        "network": network,
        "rungs": f"While training: {'; '.join(scores)}. Kept: {_MODELS[record['chosen']]}.",
    }


def commands(output: Path, record: Mapping[str, Any]) -> dict[str, str]:
    """Return the commands for the network that was kept, by what they do."""
    run, more = str(model_of(output, record)), max(round(record["minutes"]), 1)
    return {
        "Predict images": command_line(["sceneparse", "predict", run, "PHOTOS"]),
        "Evaluate, with a page": command_line(["sceneparse", "evaluate", run, "--report"]),
        "Export": command_line(["sceneparse", "export", run, "--format", "onnx"]),
        f"Train {more} minute{'s' * (more != 1)} more, from the best weights": command_line(
            ["sceneparse", "auto", str(output), "--time", f"+{more}m"]
        ),
    }


def _galleries(evaluation: Evaluation, shown: KeptExamples) -> dict[str, list[tuple[int, Example]]]:
    """Return the worst images of different scenes, and others that score about as most do."""
    scores = evaluation.image_scores
    worst = shown.by_score()["Worst images"]
    chosen = shown.of_different_scenes(worst, _WORST, len(scores))
    others = [k for k in shown.some if k not in worst and np.isfinite(scores[k])]
    usual = np.nanmedian(scores) if others else np.nan
    typical = sorted(others, key=lambda k: abs(scores[k] - usual))[:_TYPICAL]
    numbers = {"Worst images": chosen, "Typical images": typical}
    return {name: [(k, shown.example(k)) for k in found] for name, found in numbers.items()}


def _pair(example: Example, score: float, table: LabelTable) -> dict[str, Any]:
    """Encode an image under its mask, and beside it under the prediction or its errors."""
    layers = example_layers(example, table)
    panels = {"mask": {"mask": layers.pop("truth")}, "prediction": layers}
    return figure_of_layers(f"{example.name}: mean IoU {score:.3f}", example.image, panels)


def _order(values: NDArray[np.float64]) -> dict[str, list[int]]:
    """Return the rows of a table that are shown, and if there are many the folded table."""
    every = list(range(len(values)))
    if len(values) <= _LONG:
        return {"shown": every, "folded": []}
    return {"shown": np.argsort(values, kind="stable")[:_SHORT].tolist(), "folded": every}


def _shares(facts: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return percent of the labelled training pixels per class; bars relative to the largest."""
    pixels = facts["pixels"]
    total, largest = max(sum(pixels), 1), max(*pixels, 1)
    return {
        "percent": [100 * count / total for count in pixels],
        "bars": [round(100 * count / largest, 1) for count in pixels],
    }


def _curves(record: Mapping[str, Any], log: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the address of the curves, None if there was no fine-tuning."""
    if not any(r["kind"] == "train" for r in log):
        return None
    return figure_uri(draw_auto_curves(log, record["scores"].get("first")))


def _setting(value: Any) -> str:  # noqa: ANN401 - any setting
    """Return the value of a setting as a configuration writes it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
