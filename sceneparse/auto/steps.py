"""The steps from a folder to the best parser that the time allows, in their order."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import sceneparse
from sceneparse.auto.advice import advise
from sceneparse.auto.budget import Budget
from sceneparse.auto.candidates import Candidate, Weights, candidates, find_weights
from sceneparse.auto.earlier import Earlier, find_earlier, intake_of
from sceneparse.auto.facts import DataFacts, facts_of, sample_count
from sceneparse.auto.first import train_first
from sceneparse.auto.intake import Intake, take_in
from sceneparse.auto.measure import STEPS, measure
from sceneparse.auto.page import write_auto_page
from sceneparse.auto.plan import (
    ENOUGH_STEPS,
    Choice,
    Plan,
    Timed,
    choose,
    describe,
    first_plan,
    further_plan,
    scheduled,
    sized,
    steps_that_fit,
    with_given,
)
from sceneparse.auto.record import (
    PAGE_FILE,
    PLAN_FILE,
    RECORD_FILE,
    as_plain,
    read_record,
    write_record,
)
from sceneparse.config.loading import load_config
from sceneparse.config.segmentation import SegConfig
from sceneparse.data.datasets import SegmentationDataset, spread
from sceneparse.errors import InputError
from sceneparse.evaluation.dataset import evaluate_dataset
from sceneparse.evaluation.result import Evaluation, write_evaluation
from sceneparse.inference.networks import load_network
from sceneparse.inference.predictor import Predictor
from sceneparse.models.origin import IMAGENET
from sceneparse.runs.atomic import replace_text
from sceneparse.runs.log import read_records
from sceneparse.runtime.distributed import Process
from sceneparse.runtime.progress import Progress, format_seconds
from sceneparse.runtime.versions import describe_device
from sceneparse.training.examples import KeptExamples
from sceneparse.training.run import train
from sceneparse.training.segmentation import prepare_training

logger = logging.getLogger(__name__)

# Shares of the time: one candidate's measured steps, all candidates, the first rung.
_CANDIDATE, _MEASURING, _FIRST = 0.02, 0.08, 0.08
# Seconds beside training and predictions: building the network again, pictures, the page.
_OTHER_SECONDS = 10.0
# Evaluation reads, counts and draws, which validation does not.
_EVALUATING = 1.3
# Pictures to choose from; of look-alikes one is shown.
_EXAMPLES, _WORST = 6, 24

Splits = tuple[SegmentationDataset, SegmentationDataset]


@dataclass(frozen=True)
class Request:
    """What the user asked for; `given`: settings by dotted key. `command`: as typed."""

    source: Path
    output: Path
    command: str
    weights: str = "imagenet"
    licences: str = "warn"
    val: Path | None = None
    classes: Path | None = None
    seed: int = 0
    given: Mapping[str, Any] = field(default_factory=dict)
    plan_only: bool = False


@dataclass
class Job:
    """A request on the way to its result. `record` becomes auto.json."""

    request: Request
    budget: Budget
    process: Process
    record: dict[str, Any]

    @property
    def run_folder(self) -> Path:
        """The folder of the fine-tuning."""
        return self.request.output / "run"

    def save(self) -> None:
        """Write the record as it is now."""
        self.record["phases"] = self.budget.phases
        self.record["seconds_used"] = self.budget.used
        write_record(self.request.output, self.record)


def run_auto(request: Request, budget: Budget, process: Process, *, resume: bool) -> Job:
    """Do all steps; resume a job that was interrupted after its plan was written.

    Raises InputError for data, settings or a time that cannot work, before anything is trained.
    """
    output = request.output
    resume = resume and (output / RECORD_FILE).is_file()
    if output.exists() and any(output.iterdir()) and not resume:
        raise InputError(
            f"'{output}' exists and is not empty; resume a job with --resume, or choose another "
            "folder with --output"
        )
    output.mkdir(parents=True, exist_ok=True)
    if resume:
        job = resumed(request, budget, process)
    else:
        job = Job(request, budget, process, first_record(request, budget, process))
        plan_job(job)
    if not request.plan_only:
        fine_tune(job, resume=resume)
        finish(job)
    return job


def first_record(request: Request, budget: Budget, process: Process) -> dict[str, Any]:
    """Return the record of a job that begins."""
    return {
        "command": request.command,
        "minutes": budget.seconds / 60,
        "sceneparse": sceneparse.__version__,
        "machine": describe_device(process.device),
        "date": date.today().isoformat(),
        "source": request.source,
        "measured": [],
        "choices": [],
        "first": None,
        "scores": {},
        "warnings": [],
    }


def resumed(request: Request, budget: Budget, process: Process) -> Job:
    """Return an interrupted job with the time that it used; one without a plan starts again."""
    record = read_record(request.output)
    if record["minutes"] * 60 != budget.seconds:
        raise InputError(
            f"'{request.output}' is a job of {record['minutes']:g} minutes; resume it with the "
            f"same --time, or go further with sceneparse auto {request.output} --time +20m"
        )
    budget.used_before = record["seconds_used"]
    budget.phases = dict(record["phases"])
    logger.info(f"resuming {request.output}: {budget}")
    return Job(request, budget, process, record)


def plan_job(job: Job) -> None:
    """Read the data, measure what a plan would cost, and write plan.yaml."""
    request, record, budget = job.request, job.record, job.budget
    earlier = find_earlier(request.source)
    if earlier is not None:
        _refuse_useless(request)
        record["scores"] = {} if earlier.mean_iou is None else {"earlier": earlier.mean_iou}
    with budget.phase("reading the data"):
        intake = _take_in(request) if earlier is None else earlier.intake
        facts, splits = look_at(intake)
    record |= {"intake": intake, "facts": facts}
    logger.info(f"data: {describe(facts)}")
    if earlier is None:
        plan, timed, chosen, why = plan_from_data(job, intake, facts, splits)
    else:
        plan, timed, chosen, why = plan_further(job, earlier, facts, splits)
    record["measured"] = [_measured_row(t) | {"chosen": t is chosen} for t in timed]
    seconds = seconds_to_train(budget, chosen.measured.image_seconds, facts.val_images)
    plan = scheduled(plan, chosen, seconds, facts, why)
    record["choices"] = plan.choices
    plan.config()
    replace_text(request.output / PLAN_FILE, plan.text(_heading(request, facts, timed)))
    job.save()


def _refuse_useless(request: Request) -> None:
    """Raise InputError for options that mean nothing for data that an earlier job found."""
    given = {
        "--val": request.val is not None,
        "--classes": request.classes is not None,
        "--weights": request.weights != IMAGENET,
    }
    if useless := [name for name, is_given in given.items() if is_given]:
        raise InputError(
            f"{' and '.join(useless)} would change nothing: '{request.source}' is an earlier job, "
            "whose data and weights are used; leave it out"
        )


def _take_in(request: Request) -> Intake:
    return take_in(
        request.source,
        request.output,
        val=request.val,
        classes=request.classes,
        seed=request.seed,
    )


def look_at(intake: Intake) -> tuple[DataFacts, Splits]:
    """Open the splits, and count what is in them."""
    for note in intake.notes:
        logger.info(note)
    splits = intake.open()
    progress = Progress(sample_count(*splits), "samples checked")
    facts = facts_of(*splits, lambda: progress.advance(1), intake.dataset)
    progress.close()
    for note in facts.notes:
        logger.info(note)
    return facts, splits


# The plan before its schedule, what was measured, the chosen one, and why.
Planned = tuple[Plan, list[Timed], Timed, str]


def plan_from_data(job: Job, intake: Intake, facts: DataFacts, splits: Splits) -> Planned:
    """Choose weights, network, sizes and class weights."""
    request, budget = job.request, job.budget
    with budget.phase("finding weights"):
        weights = find_weights(request.weights)
    logger.info(f"weights: {weights.reason}")
    if weights.pretrained is None and request.weights != "none":
        job.record["warnings"].append(weights.reason)
    plan = first_plan(intake, facts, weights, str(job.run_folder), request.given)
    with budget.phase("measuring candidates"):
        timed = measure_candidates(job, plan, weights, facts, splits)
    chosen, why = choose(timed, facts)
    logger.info(f"chosen: {chosen.candidate.name}: {why}")
    plan = sized(plan, chosen.candidate, facts)
    with budget.phase("first rung"):
        plan = plan.but(first_rung(job, plan, splits))
    return plan, timed, chosen, why


def plan_further(job: Job, earlier: Earlier, facts: DataFacts, splits: Splits) -> Planned:
    """Keep the settings of an earlier job; start a new schedule from its better model."""
    given = job.request.given
    plan = further_plan(earlier.choices, str(earlier.model), str(job.run_folder))
    plan = with_given(plan, given)
    config = plan.config()
    long = (config.data.resize or {}).get("long")
    candidate = Candidate(config.model.backbone, long, config.augment.crop, 1.0)
    with job.budget.phase("measuring candidates"):
        timed = _measure_one(job, plan, candidate, splits)
    return plan, [timed], timed, f"as in {earlier.model}"


def _measured_row(timed: Timed) -> dict[str, Any]:
    row = {"name": timed.candidate.name, **vars(timed.measured)}
    return row | {"steps_that_fit": timed.steps_that_fit, "note": timed.note}


def _heading(request: Request, facts: DataFacts, timed: Sequence[Timed]) -> list[str]:
    measured = [f"  {t.candidate.name}: {t.note}" for t in timed]
    heading = [f"Plan of: {request.command}", describe(facts), "Measured here:", *measured]
    return [*heading, f"It is a configuration: sceneparse train --config {PLAN_FILE}"]


def seconds_to_train(budget: Budget, image_seconds: float, val_images: int) -> float:
    """Return the seconds for training and its validations; the final evaluation comes after."""
    return budget.left - _OTHER_SECONDS - _EVALUATING * image_seconds * val_images


def measure_candidates(
    job: Job, plan: Plan, weights: Weights, facts: DataFacts, splits: Splits
) -> list[Timed]:
    """Measure the candidates from cheap to fine, until one is too slow for the time.

    One is skipped if the next has enough steps too, as the numbers of their pixels predict.
    """
    stride = plan.config().model.output_stride
    listed = candidates(facts, weights, job.request.given, stride)
    timed = list[Timed]()
    end = job.budget.used + _MEASURING * job.budget.seconds
    for number, candidate in enumerate(listed):
        finer = listed[number + 1 :]
        if timed and finer and _predicted(timed[-1], finer[0]) > ENOUGH_STEPS:
            continue
        timed.append(_measure_one(job, sized(plan, candidate, facts), candidate, splits))
        if timed[-1].steps_that_fit < ENOUGH_STEPS or job.budget.used > end:
            break
    return timed


def _predicted(timed: Timed, candidate: Candidate) -> float:
    """Return the steps of another candidate that would fit, by the pixels of its crops."""
    if candidate.backbone != timed.candidate.backbone:
        return 0.0
    pixels = [of.crop[0] * of.crop[1] for of in (timed.candidate, candidate)]
    return timed.steps_that_fit * pixels[0] / pixels[1]


def _measure_one(job: Job, plan: Plan, candidate: Candidate, splits: Splits) -> Timed:
    config = plan.config(
        output=str(job.request.output / "measuring"),
        train__epochs=1,
        train__steps_per_epoch=STEPS + 1,
        data__cache="none",
    )
    budget = job.budget
    with quiet():
        measured = measure(config, splits, job.process, _CANDIDATE * budget.seconds)
    seconds = seconds_to_train(budget, measured.image_seconds, len(splits[1]))
    seconds -= _FIRST * budget.seconds
    steps, _ = steps_that_fit(measured, seconds, len(splits[1]))
    note = f"{1000 * measured.step_seconds:.0f} ms per step, {steps} steps fit"
    logger.info(f"measured {candidate.name}: {note}")
    return Timed(candidate, measured, steps, note)


@contextmanager
def quiet() -> Iterator[None]:
    """Log nothing inside, since the chosen run logs the same later."""
    package = logging.getLogger("sceneparse")
    level = package.level
    package.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        package.setLevel(level)


def first_rung(job: Job, plan: Plan, splits: Splits) -> Choice:
    """Train a light head on a frozen backbone; return the class weights that it chose."""
    setting = "loss.class_weights"
    if plan.config().model.pretrained is None:
        return Choice(setting, "auto", "helps rare classes; not measured without weights")
    budget = job.budget
    seconds = min(_FIRST * budget.seconds, max(budget.left / 4, 0))
    config = plan.config(train__epochs=1)
    found = train_first(
        config, job.request.output / "first", *splits, seconds=seconds, process=job.process
    )
    job.record["first"] = found
    job.record["scores"]["first"] = found.mean_iou
    logger.info(
        f"first model after {format_seconds(budget.used)}: mean IoU {found.mean_iou:.4f} "
        f"({found.images} images, {job.request.output / 'first'})"
    )
    best = max(found.by_weights, key=lambda rule: found.by_weights[rule])
    shown = ", ".join(f"{rule} {score:.3f}" for rule, score in found.by_weights.items())
    return Choice(
        setting, None if best == "none" else best, f"mean IoU of the first model: {shown}"
    )


def fine_tune(job: Job, *, resume: bool) -> None:
    """Train by plan.yaml, as `sceneparse train` does; a finished run is left as it is."""
    config = load_config(job.request.output / PLAN_FILE, [], SegConfig)
    with job.budget.phase("fine-tuning"):
        training = prepare_training(
            config, job.process, resume=resume, licences=job.request.licences
        )
        train(training)
    job.record["scores"] = {**job.record["scores"], "run": training.position.best}
    job.save()


def finish(job: Job) -> None:
    """Evaluate the better model on the validation split, and write the page."""
    record, output = job.record, job.request.output
    scores = record["scores"]
    chosen = max(("run", "first"), key=lambda name: scores.get(name, -1.0))
    record |= {"chosen": chosen, "reason": _why(scores)}
    with job.budget.phase("evaluation and report"):
        evaluation, kept = evaluate(job, output / chosen)
        job.save()
        written, log = read_record(output), read_records(output / "run")
        advice = advise(written, evaluation, log)
        write_auto_page(output / PAGE_FILE, written, evaluation, kept, log, advice)
    record["mean_iou"] = evaluation.scores.mean_iou
    job.save()


def _why(scores: Mapping[str, float]) -> str:
    run = f"fine-tuned {scores['run']:.4f}"
    if others := [f"{name} model {score:.4f}" for name, score in scores.items() if name != "run"]:
        return f"mean IoU on the validation images: {run}, {', '.join(others)}"
    return f"mean IoU on the validation images: {run}"


def evaluate(job: Job, run: Path) -> tuple[Evaluation, KeptExamples]:
    """Score the best checkpoint of a run as `sceneparse evaluate` does; write RUN/eval_val."""
    model = load_network(run)
    _, dataset = intake_of(as_plain(job.record["intake"])).open()
    predictor = Predictor(model, device=str(job.process.device))
    kept = KeptExamples(dataset, spread(len(dataset), _EXAMPLES), worst=_WORST)
    evaluation = evaluate_dataset(
        predictor,
        dataset,
        job.process,
        with_calibration=True,
        facts={
            "checkpoint": str(run),
            "data": f"{len(dataset)} images, the validation split",
            "precision": predictor.precision,
        },
        kept=kept,
    )
    folder = run / "eval_val"
    folder.mkdir(exist_ok=True)
    write_evaluation(folder, evaluation)
    return evaluation, kept
