"""Choose the best model of a job, score it, and write the page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sceneparse.auto.advice import advise
from sceneparse.auto.earlier import intake_of
from sceneparse.auto.job import Job
from sceneparse.auto.page import write_auto_page
from sceneparse.auto.record import PAGE_FILE, as_plain, model_of, read_record
from sceneparse.data.datasets import spread
from sceneparse.evaluation.dataset import evaluate_dataset
from sceneparse.evaluation.page import model_facts
from sceneparse.evaluation.result import Evaluation, write_evaluation
from sceneparse.inference.networks import load_network
from sceneparse.inference.predictor import Predictor
from sceneparse.runs.log import read_records
from sceneparse.training.examples import KeptExamples

# Pictures to choose from; of look-alikes one is shown.
_EXAMPLES, _WORST = 6, 24
# Models in the order in which equal scores prefer them.
_MODELS = ("run", "first", "earlier")

# The scores of a model, the examples that are kept, and facts about the model.
Evaluated = tuple[Evaluation, KeptExamples, dict[str, str]]


def finish(job: Job) -> None:
    """Evaluate the best model on the validation split, and write the page."""
    record, output = job.record, job.request.output
    with job.phase("evaluation and report"):
        evaluation, kept, model = _evaluate_best(job)
        record["reason"] = describe_scores(record)
        job.save()
        written, log = read_record(output), read_records(output / "run")
        advice = advise(written, evaluation, log)
        write_auto_page(output / PAGE_FILE, written, evaluation, kept, log, advice, model)
    record["mean_iou"] = evaluation.scores.mean_iou
    job.save()


def _evaluate_best(job: Job) -> Evaluated:
    """Evaluate the model of the best score, and record it as "chosen".

    If a few validation images made the first model best, all decide again.
    """
    record = job.record
    scores = record["scores"]
    record["chosen"] = _best(scores)
    evaluated = evaluate(job, model_of(job.request.output, record))
    evaluation, *_ = evaluated
    first = as_plain(record["first"])
    if record["chosen"] == "first" and first["validated"] < len(evaluation.image_names):
        first["validated"] = len(evaluation.image_names)
        scores["first"] = first["mean_iou"] = evaluation.scores.mean_iou
        record["first"] = first
        record["chosen"] = _best(scores)
        if record["chosen"] != "first":
            evaluated = evaluate(job, model_of(job.request.output, record))
    return evaluated


def _best(scores: Mapping[str, float]) -> str:
    return max((name for name in _MODELS if name in scores), key=lambda name: scores[name])


def describe_scores(record: Mapping[str, Any]) -> str:
    """Return which scores decided, and whether the time brought nothing."""
    scores, first = record["scores"], as_plain(record["first"])
    every = as_plain(record["facts"])["val_images"]
    parts = [f"fine-tuned {scores['run']:.4f}"]
    if first is not None:
        some = "" if first["validated"] == every else f" on {first['validated']} of them"
        parts.append(f"first model {scores['first']:.4f}{some}")
    if "earlier" in scores:
        parts.append(f"earlier model {scores['earlier']:.4f}")
    text = f"mean IoU on {every} validation image{'s' * (every != 1)}: {', '.join(parts)}"
    if record["chosen"] == "earlier":
        text += "; training brought no better model, so the earlier one is kept"
    return text


def evaluate(job: Job, run: Path) -> Evaluated:
    """Score the best checkpoint of a run as `sceneparse evaluate` does; write eval_val in OUTPUT.

    It is RUN/eval_val for a run inside of OUTPUT.
    """
    model = load_network(run)
    _, dataset = intake_of(as_plain(job.record["intake"])).open()
    predictor = Predictor(model, device=str(job.process.device))
    for drawn in (predictor, dataset):
        drawn.table = drawn.table.with_palette(job.request.palette)
    kept = KeptExamples(dataset, spread(len(dataset), _EXAMPLES), worst=_WORST)
    evaluation = evaluate_dataset(
        predictor,
        dataset,
        job.process,
        for_report=True,
        facts={
            "checkpoint": str(run),
            "data": f"{len(dataset)} images, the validation split",
            "precision": predictor.precision,
        },
        kept=kept,
    )
    output = job.request.output
    folder = (run if run.is_relative_to(output) else output) / "eval_val"
    folder.mkdir(exist_ok=True)
    write_evaluation(folder, evaluation)
    return evaluation, kept, model_facts(model, run)
