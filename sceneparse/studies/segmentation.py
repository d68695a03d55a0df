"""A study: rows of settings, with a run for each row and seed, all tested the same way."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, Field, model_validator

from sceneparse.config.loading import load_config, read_settings, set_key, validate
from sceneparse.config.recipes import find_config
from sceneparse.config.segmentation import SegConfig
from sceneparse.config.types import Section, Seed
from sceneparse.data.datasets import SegmentationDataset, create_dataset
from sceneparse.data.file_names import require_storable
from sceneparse.data.sample_checks import require_labels
from sceneparse.errors import InputError, Preempted
from sceneparse.evaluation.dataset import evaluate_dataset
from sceneparse.evaluation.result import write_evaluation
from sceneparse.inference.predictor import Predictor
from sceneparse.models import create_segmentation_model
from sceneparse.models.costs import count_multiply_adds, count_parameters
from sceneparse.models.licences import check_licence
from sceneparse.models.origin import origin_of
from sceneparse.runs.atomic import replace_folder
from sceneparse.runs.checkpoint import Saved, load_segmentation_model, newest_intact
from sceneparse.runs.folder import changed_settings
from sceneparse.runtime.distributed import Process
from sceneparse.runtime.series import Series, in_front
from sceneparse.runtime.versions import provenance
from sceneparse.training.run import train
from sceneparse.training.segmentation import model_arguments, prepare_training, validate_settings


def _row_name(name: str) -> str:
    require_storable(name, "row")
    return name


# A row's name is a folder's name too.
RowName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$", max_length=60),
    AfterValidator(_row_name),
]


class StudyConfig(Section):
    """Settings of `sceneparse study`."""

    config: str = Field(description="configuration of the runs: file beside this one, or recipe")
    split: str = Field("test", description="split that the runs are tested on")
    reference: str = Field(description="row that the others are compared with")
    seeds: list[Seed] = Field([0, 1, 2], min_length=1, description="random seeds: runs of each row")
    settings: dict[str, Any] = Field(
        {}, description="settings that all rows share: {section.key: value}"
    )
    rows: dict[RowName, dict[str, Any]] = Field(
        min_length=1, description="settings that each row changes: {section.key: value}"
    )

    @model_validator(mode="after")
    def _reference_is_a_row(self) -> StudyConfig:
        if self.reference not in self.rows:
            names = ", ".join(self.rows)
            raise ValueError(f"reference '{self.reference}' is none of rows: {names}")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds must differ")
        if len({name.casefold() for name in self.rows}) != len(self.rows):
            raise ValueError("rows must differ in more than capitals: their names are folders")
        return self


@dataclass(frozen=True)
class StudyRun:
    """A run of a study: its row and its settings."""

    row: str
    config: SegConfig
    split: str

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return Path(self.config.output)

    @property
    def scores(self) -> Path:
        """Folder of its scores."""
        return self.folder / f"eval_{self.split}"

    @property
    def tested(self) -> bool:
        """Whether the run is trained and tested."""
        return self.scores.is_dir()


@dataclass(frozen=True)
class Study:
    """A study and its runs: all rows with the first seed, then all with the next."""

    config: StudyConfig
    output: Path
    runs: Sequence[StudyRun]


def read_study(path: Path, overrides: Sequence[str]) -> Study:
    """Read a study and check the settings of all its runs, which `overrides` change.

    Raises InputError that names every problem.
    """
    study = validate(read_settings(path, (), StudyConfig), StudyConfig, path)
    base = find_config(study.config, path.parent)
    common = load_config(base, overrides, SegConfig)
    settings = read_settings(base, overrides, SegConfig)
    given = {override.partition("=")[0] for override in overrides}
    output = Path(common.output if "output" in settings else f"runs/{path.stem}")
    if "seed" in given:
        raise InputError(f"seed is what {path} lists; remove it from the command")
    shared = {key: value for key, value in study.settings.items() if key not in given}
    runs = []
    for seed in study.seeds:
        for row, changes in study.rows.items():
            if both := given & changes.keys():
                raise InputError(f"{min(both)} is what the rows of {path} differ in; remove it")
            own = copy.deepcopy(settings)
            place = str(output / row / f"seed-{seed}")
            for key, value in {**shared, **changes, "seed": seed, "output": place}.items():
                set_key(own, key, value)
            runs.append(StudyRun(row, validate(own, SegConfig, f"{path}: row {row}"), study.split))
    if len({run.config.train.device for run in runs}) > 1:
        raise InputError(
            f"{path}: all rows run on one device; give train.device=NAME in the command"
        )
    return Study(study, output, runs)


def open_test_set(study: Study) -> SegmentationDataset:
    """Open the split that all runs are tested on."""
    data = study.runs[0].config.data
    split = study.config.split
    return create_dataset(data.dataset, data.root, split, data.classes, bit_depth=data.bit_depth)


def check_runs(study: Study, licences: str = "warn") -> None:
    """Check the dataset, all networks (on the meta device) and run folders; raises InputError.

    Also checks the pretrained weights of runs that have not begun: that they exist and, if
    `licences` is "permissive", that their licence is.
    """
    test_set = open_test_set(study)
    require_labels(test_set, "choose another split for the study")
    classes = test_set.table.num_classes
    for run in study.runs[: len(study.config.rows)]:
        arguments, source = model_arguments(run.config, classes), run.config.model.pretrained
        with torch.device("meta"):
            model = create_segmentation_model(**arguments)
        if not run.folder.exists():
            validate_settings(run.config, model)
            origin = origin_of(arguments, source)
            if licences == "permissive":
                check_licence(origin, source, licences, output_stride=arguments["output_stride"])
    for run in study.runs:
        if changes := changes_since_start(run.config):
            raise InputError(
                f"'{run.folder}' holds another run: {changes[0]}; choose another folder with "
                "output=FOLDER"
            )


def changes_since_start(config: SegConfig) -> list[str]:
    """Describe the settings that differ from those of the run in the output folder, if it began."""
    begun = Path(config.output) / "config.yaml"
    if not begun.is_file():
        return []
    before = load_config(begun, (), SegConfig).model_dump(mode="json")
    return changed_settings(before, config.model_dump(mode="json"))


def carry_out(study: Study, process: Process, licences: str = "warn") -> Iterator[StudyRun]:
    """Train and test the unfinished runs; yield each one when it is finished.

    licences: see `check_runs`. Raises Preempted after a signal.
    """
    dataset = open_test_set(study)
    series = Series("run", len(study.runs))
    for number, run in enumerate(study.runs, start=1):
        if run.tested:
            continue
        series.begin(number, sum(not other.tested for other in study.runs))
        try:
            with in_front(series.describe):
                resume = run.folder.exists()
                train(prepare_training(run.config, process, resume=resume, licences=licences))
                _test(run, dataset, process)
        except Preempted as error:  # names --resume, which is no option of a study
            raise Preempted(
                f"a signal was received, and run {number} of {len(study.runs)} is saved; "
                "repeat the same command to resume it"
            ) from error
        yield run


def _test(run: StudyRun, dataset: SegmentationDataset, process: Process) -> None:
    """Test the last epoch by the protocol of validation; no epoch is chosen by images."""
    saved = newest_intact(run.folder)
    assert saved is not None  # the run has ended
    predictor = Predictor(load_segmentation_model(saved.folder), device=str(process.device))
    facts = {
        "checkpoint": str(saved.folder),
        "data": f"{len(dataset)} images, split {run.split} of {run.config.data.root}",
        "precision": predictor.compute.name,
    }
    workers = run.config.data.workers
    write_scores(predictor, saved, dataset, process, run.scores, workers=workers, facts=facts)


def write_scores(
    predictor: Predictor,
    saved: Saved,
    dataset: SegmentationDataset,
    process: Process,
    folder: Path,
    *,
    workers: int,
    facts: Mapping[str, str],
) -> None:
    """Evaluate the network of a checkpoint; write its scores and costs into a folder, all at once.

    workers: processes that load images. facts: what else to store about the run.
    """
    model, protocol = predictor.model, predictor.protocol
    # Multiply-adds are counted at the test size of the first image.
    height, width = dataset[0][0].shape[:2]
    scaled = protocol.scaled(height, width, max(protocol.scales))
    shape = (1, 3, *protocol.input_size(model, *scaled))
    evaluation = evaluate_dataset(
        predictor,
        dataset,
        process,
        workers=workers,
        facts={
            **facts,
            "seconds": f"{saved.meta['seconds']:.1f}",
            "parameters": str(count_parameters(model)),
            "multiply_adds": str(count_multiply_adds(model, shape, upsample=False)),
            **provenance(process.device),
        },
    )
    aside = folder.with_name(f".{folder.name}")
    aside.mkdir(parents=True, exist_ok=True)
    write_evaluation(aside, evaluation)
    replace_folder(aside, folder)
