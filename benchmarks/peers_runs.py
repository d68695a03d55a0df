"""The runs of peers_accuracy: networks and recipes, their training, their test, their speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from sceneparse.config.loading import load_config
from sceneparse.config.recipes import find_config
from sceneparse.config.segmentation import SegConfig
from sceneparse.data.cache import CACHES
from sceneparse.data.datasets import create_dataset
from sceneparse.data.loader import TensorSamples, batches, training_loader
from sceneparse.data.sampling import EpochSampler
from sceneparse.errors import InputError
from sceneparse.inference.predictor import Predictor
from sceneparse.models.segmentation import SegmentationModel
from sceneparse.models.stored import MODEL_FILE
from sceneparse.models.weights import load_strict, read_weights
from sceneparse.runs.checkpoint import Saved, load_segmentation_model, newest_intact
from sceneparse.runs.lock import RunLock
from sceneparse.runtime.distributed import Process
from sceneparse.studies.segmentation import changes_since_start, write_scores
from sceneparse.training.run import Training, train
from sceneparse.training.segmentation import create_stepper, prepare_training

# The settings of our recipe, and what each of our networks changes in them.
RECIPE = "study/camvid_half"
OURS: dict[str, list[str]] = {
    "strip_pooling_plus": [
        "model.head=strip_pooling_plus",
        "model.head_options={fine_strip: true}",
    ],
    "deeplabv3plus": ["model.head=deeplabv3plus"],
}
# SMP's networks are prepared as this one of ours, and then replace it.
_STAND_IN = ["model.head=fcn"]
# Half of CamVid's height and width, and of the example's crop of 320x320.
HALF, _HALF_CROP = (180, 240), (160, 160)
_EQUAL_TIME = ", equal time"


@dataclass(frozen=True)
class Row:
    """A network and its recipe: "ours" or "plain", and perhaps with ", equal time"."""

    name: str
    recipe: str

    def __str__(self) -> str:
        return f"{self.name}:{self.recipe}"

    @property
    def is_ours(self) -> bool:
        """Whether this package built the network."""
        return self.name not in PEERS

    @property
    def in_equal_time(self) -> bool:
        """Whether its epochs are those that fit into the training time of REFERENCE."""
        return self.recipe.endswith(_EQUAL_TIME)

    @property
    def in_equal_epochs(self) -> Row:
        """The same network and recipe, trained for as many epochs as the others."""
        return Row(self.name, self.recipe.removesuffix(_EQUAL_TIME))

    @property
    def plain(self) -> bool:
        """Whether it is trained as in SMP's example."""
        return self.recipe.startswith("plain")


REFERENCE = Row("strip_pooling_plus", "ours")
# The networks of SMP, which smp.py builds, and what the sides of their images are multiples of.
PEERS = {"smp_deeplabv3plus": 16, "smp_unet": 32}
ROWS = [
    *(Row(name, "ours") for name in OURS),
    *(Row(name, recipe) for name in PEERS for recipe in ("plain", "ours")),
]
EQUAL_TIME_ROWS = [Row(row.name, row.recipe + _EQUAL_TIME) for row in ROWS if not row.is_ours]


@dataclass(frozen=True)
class Run:
    """A row with one seed: its settings, and its folders below `place`."""

    row: Row
    config: SegConfig
    place: Path

    @property
    def folder(self) -> Path:
        """Folder of its training."""
        return Path(self.config.output)

    def scores(self, split: str) -> Path:
        """Return the folder of its scores."""
        return self.place / f"eval_{split}"


@dataclass(frozen=True)
class Plan:
    """What all runs share. `settings`: changes of RECIPE, "section.key=value".

    `example_size` and `example_crop`: height and width that images are scaled to in the recipe
    "plain", and of its crops.
    """

    data: str
    weights: str
    settings: Sequence[str]
    epochs: int
    output: Path
    process: Process
    example_size: tuple[int, int] = HALF
    example_crop: tuple[int, int] = _HALF_CROP

    def run(self, row: Row, seed: int, epochs: int | None = None) -> Run:
        """Return a run, of as many epochs as the plan has by default.

        Raises InputError if `settings` change what the benchmark sets itself.
        """
        name = f"{row.name}-{row.recipe}".replace(", ", "-").replace(" ", "_")
        place, epochs = self.output / name / f"seed-{seed}", epochs or self.epochs
        own = [
            *(f"data.root={self.data}", f"model.pretrained={self.weights}", "train.amp=off"),
            *(f"train.epochs={epochs}", f"eval.every={epochs}"),
            *(f"seed={seed}", f"output={place / 'training'}"),
            *OURS.get(row.name, _STAND_IN),
        ]
        keys = {setting.partition("=")[0] for setting in own}
        for setting in self.settings:
            if (key := setting.partition("=")[0]) in keys:
                raise InputError(f"the benchmark sets {key} itself; remove '{setting}'")
        recipe, settings = find_config(RECIPE, Path()), [*self.settings, *own]
        config = load_config(recipe, settings, SegConfig)
        if not row.is_ours:
            crop = [nearest_multiple(side, PEERS[row.name]) for side in config.augment.crop]
            config = load_config(recipe, [*settings, f"augment.crop={crop}"], SegConfig)
        return Run(row, config, place)


def nearest_multiple(side: int, multiple: int) -> int:
    """Return the nearest multiple of a number, at least one."""
    return max(round(side / multiple), 1) * multiple


def check_runs(plan: Plan, runs: Sequence[Run]) -> None:
    """Raise InputError if a folder holds a run of other settings, or weights do not fit."""
    from benchmarks.smp import create_peer

    for name in {run.row.name for run in runs if not run.row.is_ours}:
        create_peer(name, 2, plan.weights)
    for run in runs:
        if changes := changes_since_start(run.config):
            raise InputError(
                f"'{run.folder}' holds a run of other settings: {changes[0]}; repeat the call that "
                "began it, or choose another folder with --output"
            )


def train_and_test(plan: Plan, run: Run, split: str) -> bool:
    """Train and test a run unless that is done; return whether it is done.

    A run that another process works on is skipped, so that many processes can share the runs.
    """
    if run.scores(split).is_dir():
        return True
    run.place.mkdir(parents=True, exist_ok=True)
    lock = RunLock(run.place)
    try:
        lock.acquire()
    except InputError as error:
        reason, _, _ = str(error).partition(";")
        print(f"skipped {run.row}, seed {run.config.seed}: {reason}", flush=True)
        return False
    try:
        if not run.scores(split).is_dir():
            epochs = run.config.train.epochs
            print(f"\n{run.row}, seed {run.config.seed}, {epochs} epochs", flush=True)
            _test(plan, run, _trained(plan, run), split)
    finally:
        lock.release()
    return True


def _trained(plan: Plan, run: Run) -> Saved:
    """Return the last checkpoint of a run, and train it first if it has not ended."""
    saved = newest_intact(run.folder) if run.folder.exists() else None
    if saved is None or saved.meta["epoch"] < run.config.train.epochs:
        train(prepare(plan, run))
        saved = newest_intact(run.folder)
    assert saved is not None  # the run has ended
    return saved


def prepare(plan: Plan, run: Run) -> Training:
    """Prepare a run; one of ours resumes if it was interrupted, one of SMP starts again."""
    begun = run.folder.exists()
    if run.row.is_ours:
        return prepare_training(run.config, plan.process, resume=begun)
    from benchmarks import smp

    config = run.config
    training = prepare_training(config, plan.process, overwrite=begun)
    stand_in, steps = training.model, training.sampler.steps_per_epoch
    torch.manual_seed(config.seed)
    network = smp.create_peer(run.row.name, len(training.meta["classes"]), plan.weights)
    training.compute.place_model(network)
    training.model = training.parallel = network
    if run.row.plain:
        _use_example(plan, config, training)
        training.stepper = smp.example_stepper(network, config.train.epochs * steps)
    else:
        assert isinstance(stand_in, SegmentationModel)
        network.freeze_as(stand_in)
        training.stepper = create_stepper(config, network, steps, training.compute)
    return training


def _use_example(plan: Plan, config: SegConfig, training: Training) -> None:
    """Give a run the augmentation and the loss of SMP's example."""
    from benchmarks import smp

    data = config.data
    dataset = CACHES[data.cache](create_dataset(data.dataset, data.root, data.train_split))
    ignored = dataset.table.ignore_index
    transform = smp.example_transform(plan.example_size, plan.example_crop, ignored)
    samples = TensorSamples(dataset, transform, config.seed)
    assert isinstance(training.sampler, EpochSampler)
    loader = training_loader(samples, training.sampler, workers=data.workers, timeout=data.timeout)
    training.batches = lambda: batches(loader)
    training.loss = smp.example_loss(ignored)


def _test(plan: Plan, run: Run, saved: Saved, split: str) -> None:
    """Test the last epoch by the protocol of validation, in float32."""
    predictor = Predictor(
        load_network(plan, run, saved), device=str(plan.process.device), amp="off"
    )
    dataset = create_dataset(run.config.data.dataset, run.config.data.root, split)
    facts = {
        "name": run.row.name,
        "recipe": run.row.recipe,
        "seed": str(run.config.seed),
        "epochs": str(run.config.train.epochs),
    }
    folder, workers = run.scores(split), run.config.data.workers
    write_scores(predictor, saved, dataset, plan.process, folder, workers=workers, facts=facts)


def load_network(plan: Plan, run: Run, saved: Saved) -> SegmentationModel:
    """Load the network of a checkpoint."""
    if run.row.is_ours:
        return load_segmentation_model(saved.folder)
    from benchmarks.smp import create_peer

    network = create_peer(run.row.name, len(saved.meta["classes"]), plan.weights)
    weights = saved.folder / MODEL_FILE
    load_strict(network, read_weights(weights), str(weights))
    network.meta = saved.meta
    return network
