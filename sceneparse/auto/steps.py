"""The steps from a folder to the best parser that the time allows, in their order."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from sceneparse.auto.budget import Budget
from sceneparse.auto.candidates import Candidate, candidates, find_weights
from sceneparse.auto.earlier import Earlier, find_earlier
from sceneparse.auto.facts import DataFacts, facts_of, sample_count
from sceneparse.auto.finish import finish
from sceneparse.auto.first import train_first
from sceneparse.auto.intake import Intake, take_in
from sceneparse.auto.job import Job, Request, open_job
from sceneparse.auto.measure import STEPS, measure
from sceneparse.auto.plan import (
    Choice,
    Plan,
    Timed,
    check_given,
    choose,
    describe,
    enough_steps,
    first_plan,
    further_plan,
    scheduled,
    sized,
    smallest_scale,
    steps_that_fit,
    with_given,
)
from sceneparse.auto.record import PLAN_FILE, as_plain
from sceneparse.config.loading import load_config
from sceneparse.config.segmentation import SegConfig
from sceneparse.data.datasets import SegmentationDataset
from sceneparse.errors import InputError
from sceneparse.models.licences import check_licence
from sceneparse.models.origin import IMAGENET, origin_of
from sceneparse.runs.atomic import replace_text
from sceneparse.runtime.distributed import Process
from sceneparse.runtime.progress import Progress, format_seconds
from sceneparse.training.run import train
from sceneparse.training.segmentation import model_arguments, prepare_training

logger = logging.getLogger(__name__)

# Shares of the time: one candidate's measured steps, all candidates, the first rung.
_CANDIDATE, _MEASURING, _FIRST = 0.02, 0.08, 0.05
# Pixels of larger crops cost at most so many times less, since each step has fixed costs.
_CHEAPER = 2.5
# Seconds beside training and predictions: building the network again, pictures, the page.
_OTHER_SECONDS = 4.0
# Evaluation reads, counts and draws, which validation does not.
_EVALUATING = 1.3

Splits = tuple[SegmentationDataset, SegmentationDataset]


def run_auto(request: Request, budget: Budget, process: Process, *, resume: bool) -> Job:
    """Do all steps; resume a job that was interrupted, from its plan on if it has one.

    Raises InputError for data, settings or a time that cannot work, before anything is trained.
    """
    check_given(request.given, scratch=request.weights == "none")
    with open_job(request, budget, process, resume=resume) as job:
        if job.finished:
            logger.info(f"{request.output} is finished, so nothing is trained")
            return job
        was_planned = job.planned
        if not was_planned:
            plan_job(job)
        if not request.plan_only:
            fine_tune(job, resume=was_planned)
            finish(job)
    return job


def plan_job(job: Job) -> None:
    """Read the data, measure what a plan would cost, and write plan.yaml."""
    request, record, budget = job.request, job.record, job.budget
    earlier = find_earlier(request.source)
    if earlier is not None:
        _refuse_useless(request)
        record["earlier"] = str(earlier.model)
        record["scores"] = {} if earlier.mean_iou is None else {"earlier": earlier.mean_iou}
    with job.phase("reading the data"):
        if earlier is None:
            source, output, seed = request.source, request.output, request.seed
            intake = take_in(source, output, val=request.val, classes=request.classes, seed=seed)
        else:
            intake = earlier.intake
        intake = replace(intake, bit_depth=request.given.get("data.bit_depth", intake.bit_depth))
        facts, splits = look_at(intake)
    record |= {"intake": intake, "facts": facts}
    logger.info(f"data: {describe(facts)}")
    if earlier is None:
        plan, timed, chosen, why = plan_from_data(job, intake, facts, splits)
    else:
        plan, timed, chosen, why = plan_further(job, earlier, facts, splits)
    record["measured"] = [_measured_row(t) | {"chosen": t is chosen} for t in timed]
    seconds = seconds_to_train(budget, chosen.measured.image_seconds, facts.val_images)
    seconds = max(seconds, _least_seconds(chosen, facts.val_images))
    plan = scheduled(plan, chosen, seconds, facts, why)
    plan.config()
    replace_text(request.output / PLAN_FILE, plan.text(_heading(request, facts, timed)))
    record["choices"] = plan.choices
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


def look_at(intake: Intake) -> tuple[DataFacts, Splits]:
    """Open the splits, and count what is in them."""
    for note in intake.notes:
        logger.info(note)
    splits = intake.open()
    with Progress("check", sample_count(*splits), "samples") as progress:
        facts = facts_of(*splits, progress.advance, intake.dataset)
    for note in facts.notes:
        logger.info(note)
    return facts, splits


# The plan before its schedule, what was measured, the chosen one, and why.
Planned = tuple[Plan, list[Timed], Timed, str]


def plan_from_data(job: Job, intake: Intake, facts: DataFacts, splits: Splits) -> Planned:
    """Choose weights, network, sizes and class weights."""
    request = job.request
    with job.phase("finding weights"), quiet():
        weights = find_weights(request.weights, request.given.get("model.backbone"))
    logger.info(f"weights: {weights.reason}")
    if weights.pretrained is None and request.weights != "none":
        job.record["warnings"].append(weights.reason)
    plan = first_plan(intake, facts, weights, str(job.run_folder), request.given)
    plan = plan.but(Choice("seed", request.seed, "of the split, the weights and the order"))
    config = plan.config()
    origin = origin_of(model_arguments(config, len(facts.names)), weights.pretrained)
    stride = config.model.output_stride
    with quiet():
        check_licence(origin, weights.pretrained, request.licences, output_stride=stride)
    listed = candidates(facts, weights, request.given, stride)
    shown = [c for c in listed if c.scale >= smallest_scale(facts)] or listed[-1:]
    with job.phase("first rung"):
        plan = plan.but(first_rung(job, sized(plan, shown[0], facts), facts, splits))
    with job.phase("measuring candidates"):
        cheapest = _measure_one(job, sized(plan, listed[0], facts), listed[0], splits)
        _require_time(job, [cheapest], facts.val_images)
        timed = [cheapest, *measure_finer(job, plan, listed[1:], cheapest, facts, splits)]
        timed.sort(key=lambda t: listed.index(t.candidate))
    chosen, why = choose(timed, facts)
    logger.info(f"chosen: {chosen.candidate.name}: {why}")
    return sized(plan, chosen.candidate, facts), timed, chosen, why


def plan_further(job: Job, earlier: Earlier, facts: DataFacts, splits: Splits) -> Planned:
    """Keep the settings of an earlier job; start a new schedule from its better model."""
    given = job.request.given
    plan = further_plan(earlier.choices, str(earlier.model), str(job.run_folder))
    plan = with_given(plan.but(Choice("seed", job.request.seed, "of the order of images")), given)
    config = plan.config()
    long = (config.data.resize or {}).get("long")
    candidate = Candidate(config.model.backbone, long, config.augment.crop, 1.0)
    with job.phase("measuring candidates"):
        timed = _measure_one(job, plan, candidate, splits)
    _require_time(job, [timed], facts.val_images)
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


def _least_seconds(timed: Timed, val_images: int) -> float:
    """Return the seconds of the shortest training: two steps and a validation."""
    return 2 * timed.measured.step_seconds + timed.measured.image_seconds * val_images


def _require_time(job: Job, timed: Sequence[Timed], val_images: int) -> None:
    """Raise InputError, with the least time that would do, if no candidate can be trained."""
    if any(t.steps_that_fit for t in timed):
        return
    budget = job.budget
    after = min(
        _least_seconds(t, val_images) + _EVALUATING * t.measured.image_seconds * val_images
        for t in timed
    )
    least = (budget.used - budget.used_before + after + _OTHER_SECONDS) / (1 - _FIRST)
    # Measured times vary.
    least = max(math.ceil(1.2 * least / 10) * 10, budget.seconds + 10)
    raise InputError(
        f"--time {format_seconds(budget.seconds)} is too short for one training step and an "
        f"evaluation here; give at least --time {least:.0f}s, and better 5m or more"
    )


def measure_finer(
    job: Job,
    plan: Plan,
    listed: Sequence[Candidate],
    enough: Timed,
    facts: DataFacts,
    splits: Splits,
) -> Iterator[Timed]:
    """Measure the finest candidate after `enough` that may have enough steps, and search on.

    Towards finer ones if it has enough, towards cheaper ones if not, while the time allows.
    """
    end = job.budget.used + _MEASURING * job.budget.seconds
    while listed and enough.has_enough and job.budget.used < end:
        place = _hopeful(enough, listed, job.budget.seconds)
        if place is None:
            return
        timed = _measure_one(job, sized(plan, listed[place], facts), listed[place], splits)
        yield timed
        listed = listed[place + 1 :] if timed.has_enough else listed[:place]
        enough = timed if timed.has_enough else enough


def _hopeful(timed: Timed, listed: Sequence[Candidate], seconds: float) -> int | None:
    """Return the place of the last candidate that may have enough steps, by its pixels.

    Of another backbone nothing is known, so that the first is tried. None: there is none.
    """
    same = [c for c in listed if c.backbone == timed.candidate.backbone]
    if not same:
        return 0
    done = timed.candidate.crop[0] * timed.candidate.crop[1] * timed.steps_that_fit * _CHEAPER
    may = [done / (c.crop[0] * c.crop[1]) > enough_steps(c, seconds) for c in same]
    return max((k for k, hope in enumerate(may) if hope), default=None)


def _measure_one(job: Job, plan: Plan, candidate: Candidate, splits: Splits) -> Timed:
    config = plan.config(
        output=str(job.request.output / "measuring"),
        train__epochs=1,
        train__steps_per_epoch=STEPS + 1,
        data__cache="none",
    )
    budget = job.budget
    with quiet():
        measured = measure(
            config,
            splits,
            job.process,
            _CANDIDATE * budget.seconds,
            licences=job.request.licences,
        )
    seconds = seconds_to_train(budget, measured.image_seconds, len(splits[1]))
    steps, _ = steps_that_fit(measured, seconds, len(splits[1]))
    note = f"{1000 * measured.step_seconds:.0f} ms per step, {steps} steps fit"
    logger.info(f"measured {candidate.name}: {note}")
    return Timed(candidate, measured, steps, enough_steps(candidate, budget.seconds), note)


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


def first_rung(job: Job, plan: Plan, facts: DataFacts, splits: Splits) -> Choice:
    """Train a light head on a frozen backbone; return the class weights that it chose."""
    setting = "loss.class_weights"
    if plan.config().model.pretrained is None:
        rarest = min(filter(None, facts.pixels)) / sum(facts.pixels)
        return Choice(setting, "auto", f"the rarest class has {rarest:.2%} of the pixels")
    budget = job.budget
    seconds = min(_FIRST * budget.seconds, max(budget.left / 4, 0))
    config = plan.config(train__epochs=1)
    with quiet():
        found = train_first(
            config, job.request.output / "first", *splits, seconds=seconds, process=job.process
        )
    job.record["first"] = found
    job.record["scores"]["first"] = found.mean_iou
    logger.info(
        f"first model after {format_seconds(budget.used)}: mean IoU {found.mean_iou:.4f} on "
        f"{found.validated} of {len(splits[1])} validation images ({found.images} of "
        f"{len(splits[0])} training images, {found.steps} steps; {job.request.output / 'first'})"
    )
    best = max(found.by_weights, key=lambda rule: found.by_weights[rule])
    shown = ", ".join(f"{rule} {score:.3f}" for rule, score in found.by_weights.items())
    return Choice(
        setting, None if best == "none" else best, f"mean IoU of the first model: {shown}"
    )


def fine_tune(job: Job, *, resume: bool) -> None:
    """Train by plan.yaml, as `sceneparse train` does; a finished run is left as it is."""
    config = load_config(job.request.output / PLAN_FILE, [], SegConfig)
    # The folder may have been moved, or the command called in another one.
    config = config.model_copy(update={"output": str(job.run_folder)})
    with job.phase("fine-tuning"):
        training = prepare_training(
            config, job.process, resume=resume, licences=job.request.licences
        )
        if not training.position.pace.validation:
            training.position.pace.measure("validation", _validation_seconds(job))
        train(training)
    job.record["scores"] = {**job.record["scores"], "run": training.position.best}
    job.save()


def _validation_seconds(job: Job) -> float:
    """Return the seconds of a validation, by what was measured for the plan."""
    measured, facts = as_plain(job.record["measured"]), as_plain(job.record["facts"])
    chosen = next(row for row in measured if row["chosen"])
    return float(chosen["image_seconds"] * facts["val_images"])
