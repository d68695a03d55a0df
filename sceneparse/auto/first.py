"""The first rung: a light head on a frozen pretrained backbone, whose maps are computed once.

It gives a score and pictures within a short time. The head is trained twice, without class weights
and with the rule "auto"; the better one is kept.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch

from sceneparse.auto.features import (
    Crops,
    RememberingBackbone,
    compute_crops,
    needed_maps,
    spread_order,
)
from sceneparse.auto.light import (
    Light,
    build_light,
    load_trained,
    time_step,
    train_head,
    trained_state,
    weights_of_rule,
)
from sceneparse.config.loading import render_config
from sceneparse.config.segmentation import SegConfig
from sceneparse.data.cache import free_memory
from sceneparse.data.datasets import SegmentationDataset
from sceneparse.data.loader import Batch, TensorSamples, evaluation_loader
from sceneparse.data.resizing import Resize
from sceneparse.data.sampling import Draw
from sceneparse.errors import InputError
from sceneparse.metrics.confusion import ConfusionMatrix, scores_from_counts
from sceneparse.models.segmentation import SegmentationModel
from sceneparse.report.pictures import save_png
from sceneparse.runs.atomic import remove_folder, replace_folder, replace_text
from sceneparse.runs.checkpoint import save_checkpoint
from sceneparse.runs.folder import validate_folder
from sceneparse.runtime.distributed import Process
from sceneparse.runtime.progress import Progress
from sceneparse.runtime.signals import StopRequest
from sceneparse.training.loop import evaluate
from sceneparse.training.position import Position
from sceneparse.training.segmentation import describe_model, training_samples
from sceneparse.training.start import describe_run
from sceneparse.training.validation import Validated, validate_segmentation

logger = logging.getLogger(__name__)

Clock = Callable[[], float]
RULES = ("none", "auto")
# Shares of the time: after the first the maps of validation images are computed, after the second
# those of all crops. The last score may take the third, for images whose maps are not remembered.
_COMPARED, _MAPS, _LAST_SCORE = 0.12, 0.4, 0.15
# Kept for pictures and files: a share of the time, and the least seconds.
_RESERVE, _LEAST_RESERVE = 0.03, 0.7
# Share of the free memory that all maps may take.
_MEMORY = 0.25
# The rules are compared on so many validation images, if there are as many.
_MIN_COMPARED, _MAX_COMPARED = 5, 30
_MIN_STEPS, _MAX_PASSES = 20, 60


@dataclass(frozen=True)
class First:
    """The result of the first rung.

    `folder`: its run folder. `mean_iou`: on `validated` validation images, of the better head.
    `by_weights`: the mean IoU of each rule for class weights, on `compared` validation images.
    `images`: training images whose maps were used, in `crops` crops. `steps`: of each head.
    """

    folder: Path
    mean_iou: float
    by_weights: Mapping[str, float]
    images: int
    seconds: float
    crops: int
    steps: int
    compared: int
    validated: int


@dataclass(frozen=True)
class _Scorer:
    """Scores the network; remembers the maps of some validation images, and these `images`.

    `new`, `remembered`: the seconds of an image whose maps it does not remember, and of another.
    """

    light: Light
    model: SegmentationModel
    dataset: SegmentationDataset
    images: list[Batch]
    new: float
    remembered: float

    def mean_iou(self) -> float:
        """Score the remembered images, under the protocol of the run."""
        table, light, count = self.dataset.table, self.light, len(self.images)
        device = light.compute.counts_on
        matrix = ConfusionMatrix(table.num_classes, table.ignore_index, range(count), count, device)
        evaluate(
            self.model,
            self.images,
            [matrix],
            infer=light.protocol,
            normalize=light.normalize,
            compute=light.compute,
            after_batch=lambda *_: None,
        )
        return scores_from_counts(matrix.counts.cpu().numpy()).mean_iou

    def validate(self, numbers: list[int]) -> Validated:
        """Score some validation images as a run does after an epoch."""
        pairs = [self.dataset.pairs[number] for number in sorted(numbers)]
        whole = self.dataset
        some = SegmentationDataset(pairs, whole.table, whole.bit_depth, whole.resize)
        return validate_segmentation(
            self.model,
            dataset=some,
            loader=evaluation_loader(some, rank=0, world_size=1, workers=0, timeout=0),
            protocol=self.light.protocol,
            normalize=self.light.normalize,
            compute=self.light.compute,
            stop=StopRequest(),
            process=Process(0, 1, self.light.compute.device),
        )


def train_first(
    config: SegConfig,
    folder: Path,
    train_set: SegmentationDataset,
    val_set: SegmentationDataset,
    *,
    seconds: float,
    process: Process,
    clock: Clock = time.monotonic,
) -> First:
    """Train a light head on the pretrained backbone of `config`; write its run to `folder`.

    It takes about `seconds`, but at least 20 steps. `folder` is written at the end, at once. The
    result depends on the numbers of crops, steps and validation images alone, which the speed of
    the machine decides. It runs in one process. Raises InputError.
    """
    start = clock()

    def left() -> float:
        return start + seconds - clock()

    validate_folder(folder, resume=False, overwrite=True)
    light = build_light(config, train_set.table, process)
    memory = _MEMORY * _free_bytes(process.device)
    until = (1 - _COMPARED) * seconds
    scorer = _remember(light, val_set, memory / 4, lambda: left() < until, clock)
    until = (1 - _MAPS) * seconds
    crops = _crops(light, train_set, memory * 3 / 4, lambda: left() < until)
    reserve = max(_RESERVE * seconds, _LEAST_RESERVE)
    steps = _count_steps(scorer, crops, left() - reserve, _LAST_SCORE * seconds, clock)
    rule, by_weights = _train_heads(scorer, crops, steps, left)
    more = int((left() - reserve) / scorer.new)
    numbers = spread_order(len(val_set))[: len(scorer.images) + max(more, 0)]
    found = scorer.validate(numbers)
    first = First(
        folder=folder,
        mean_iou=found.score,
        by_weights=by_weights,
        images=len(crops.images),
        seconds=seconds - left(),
        crops=len(crops),
        steps=steps,
        compared=len(scorer.images),
        validated=len(numbers),
    )
    _write_run(light, first, rule, found)
    return first


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return free_memory()


def _remember(
    light: Light,
    val_set: SegmentationDataset,
    memory: float,
    enough: Callable[[], bool],
    clock: Clock,
) -> _Scorer:
    """Compute the maps of some validation images, evenly spread, until it is `enough`."""
    backbone = RememberingBackbone(light.model.backbone, needed_maps(light.model), memory)
    model = SegmentationModel(backbone, light.model.head).eval()
    samples, images, times = TensorSamples(val_set), list[Batch](), list[float]()

    def run(batch: Batch) -> None:
        with torch.inference_mode(), light.compute.autocast():
            pixels = light.compute.place_images(batch.images)
            light.protocol(model, pixels, light.normalize).labels().cpu()

    with Progress("first model: validation images", None, "images") as progress:
        for number in progress.over(spread_order(len(val_set))[:_MAX_COMPARED]):
            before, sample = clock(), samples[Draw(0, number)]
            if isinstance(sample, InputError):
                raise sample
            image, target, name = sample
            images.append(Batch(image[None], target[None], (name,)))
            run(images[-1])
            times.append(max(clock() - before, 1e-6))
            if enough() and len(images) >= _MIN_COMPARED:
                break
    before = clock()
    run(images[-1])
    # The first image is slower.
    return _Scorer(light, model, val_set, images, median(times[1:] or times), clock() - before)


def _crops(
    light: Light, train_set: SegmentationDataset, memory: float, enough: Callable[[], bool]
) -> Crops:
    """Compute the maps of augmented training crops until it is `enough`."""
    data = light.config.data
    dataset = train_set.resized(Resize.of(data.resize))
    at_once = min(4 if light.compute.device.type == "cpu" else 16, max(len(dataset), 2))
    return compute_crops(
        light.model,
        [training_samples(light.config, dataset, light.normalize) for _ in range(at_once)],
        normalize=light.normalize,
        compute=light.compute,
        enough=enough,
        budget=memory,
    )


def _count_steps(
    scorer: _Scorer, crops: Crops, left: float, last_score: float, clock: Clock
) -> int:
    """Return how many steps each head is trained for, so that the scores fit into the time too."""
    before = clock()
    step_seconds = time_step(scorer.light, crops, clock)
    left -= clock() - before
    compared = len(scorer.images)
    others = (len(scorer.dataset) - compared) * scorer.new
    left -= 2 * compared * scorer.remembered + min(others, last_score)
    passes = -(-len(crops) // scorer.light.config.train.batch_size)
    steps = min(max(int(left / len(RULES) / step_seconds), _MIN_STEPS), _MAX_PASSES * passes)
    logger.info(
        f"first rung: the maps of {len(crops)} crops of {len(crops.images)} training images and of "
        f"{compared} validation images are computed; {steps} steps of {step_seconds:.3f} s for "
        "each head"
    )
    return steps


def _train_heads(
    scorer: _Scorer, crops: Crops, steps: int, left: Callable[[], float]
) -> tuple[str, dict[str, float]]:
    """Train a head with each rule for class weights, keep the better one; return rule and scores.

    A further rule is skipped if the machine has become so slow that it would take too long.
    """
    light, model = scorer.light, scorer.light.model
    start, scores, states = trained_state(model), dict[str, float](), {}
    for rule in RULES:
        before = left()
        load_trained(model, start)
        train_head(light, crops, steps, weights_of_rule(rule, crops, light))
        scores[rule] = scorer.mean_iou()
        states[rule] = trained_state(model)
        if rule != RULES[-1] and left() < 0.7 * (before - left()):
            logger.info(f"first rung: no time is left to compare other class weights than {rule}")
            break
    best = max(scores, key=lambda rule: scores[rule])
    load_trained(model, states[best])
    return best, scores


def _write_run(light: Light, first: First, rule: str, found: Validated) -> None:
    """Write the run folder under another name, and rename it."""
    loss = light.config.loss.model_copy(update={"class_weights": None if rule == "none" else rule})
    config = light.config.model_copy(update={"loss": loss, "output": str(first.folder)})
    facts = {k: v for k, v in asdict(first).items() if k not in ("folder", "mean_iou", "seconds")}
    record = {"kind": "val", "step": first.steps, "epoch": 1, "seconds": round(first.seconds, 1)}
    position = Position(1, 0, first.seconds, best=first.mean_iou, best_step=first.steps)
    arguments, origin = light.model.meta["model"], light.model.meta["pretrained"]
    aside = first.folder.with_name(f".{first.folder.name}.aside")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        replace_text(aside / "config.yaml", render_config(config))
        replace_text(
            aside / "metrics.jsonl", json.dumps({**record, **found.values, **facts}) + "\n"
        )
        if found.picture is not None:
            save_png(found.picture, aside / "pictures" / "epoch-0001.png")
        save_checkpoint(
            aside,
            step=first.steps,
            best_step=first.steps,
            weights=light.model.state_dict(),
            training={},
            meta={
                **describe_model(config, arguments, light.table, origin),
                **describe_run(config.model_dump(mode="json"), light.normalize, light.compute),
                **asdict(position),
                "processes": 1,
                "first": facts,
            },
        )
        remove_folder(replace_folder(aside, first.folder))
    except OSError as error:
        raise InputError(f"cannot write '{first.folder}': {error.strerror}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
