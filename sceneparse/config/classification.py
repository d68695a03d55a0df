"""The settings of `sceneparse classify`."""

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from sceneparse.config import types
from sceneparse.config.types import NameIn

MAX_SEEDS = 1000


class ClsDataSection(types.Section):
    """The images, and how they are split."""

    dataset: Annotated[str, NameIn("dataset", "sceneparse.data.image_folders.IMAGE_DATASETS")] = (
        "cifar10"
    )
    """cifar10, cifar100, or folder (SPLIT/CLASS/IMAGE)"""
    root: types.FilePath = "data"
    """folder of the dataset; CIFAR is downloaded to it"""
    train_split: str = "train"
    """training split of a folder dataset"""
    test_split: str = "test"
    """test split of a folder dataset"""
    size: types.Count = 32
    """images of a folder dataset are scaled to this side"""
    limit: types.CountOrZero = 0
    """number of training images used, in equal shares per class; 0: all"""
    holdout: types.CountOrZero = 0
    """number of training images held out to choose the best epoch"""
    mean: types.Color | None = None
    """RGB mean in 0..1; null: that of the pretrained weights, else of the training images"""
    std: types.Deviations | None = None
    """RGB standard deviation in 0..1; null: that of the pretrained weights, else of the images"""


class ClsAugmentSection(types.Section):
    """Random augmentation of the training images."""

    padding: types.CountOrZero = 4
    """zeros added on each side before the random crop; 0: no crop"""
    mirror: types.Switch = True
    """mirror half the images"""


class ClsOptimSection(types.Section):
    """The optimiser and its learning rate schedule."""

    name: types.OptimizerName = "sgd"
    """sgd, adam or adamw"""
    lr: types.Positive = 0.1
    """initial learning rate; null: 0.1 with sgd, else 0.001"""
    momentum: types.Fraction = 0.9
    """momentum of sgd, first beta of adam and adamw"""
    nesterov: types.Switch = False
    """use Nesterov's momentum in sgd"""
    weight_decay: types.NotNegative = 5e-4
    """weight decay of all parameters except GCT's beta"""
    schedule: Annotated[str, NameIn("schedule", "sceneparse.training.optim.SCHEDULES")] = "step"
    """step (times gamma at milestones), cosine or poly (to 0), constant"""
    milestones: list[types.Count] = Field([100, 150])
    """epochs after which schedule step multiplies lr by gamma"""
    gamma: types.Positive = 0.1
    """factor of lr at each milestone"""

    @model_validator(mode="before")
    @classmethod
    def _usual_rate(cls, values: Any) -> Any:  # noqa: ANN401 - whatever YAML holds
        """Insert the optimiser's usual learning rate if none is given, so that it is recorded."""
        if isinstance(values, dict) and values.get("lr") is None:
            return {**values, "lr": 0.1 if values.get("name", "sgd") == "sgd" else 0.001}
        return values


class ClsTrainSection(types.RunSection):
    """How long to train, batch size and precision."""

    epochs: types.Count = 200
    """passes over the training images"""
    batch_size: types.Count = 128
    """images per optimiser step"""


class ClsConfig(types.Section):
    """All settings of `sceneparse classify`."""

    output: types.FilePath = "runs/unnamed"
    """folder of the runs; default: runs/NAME"""
    model: str = "resnet18"
    """resnet18/34/50, resnet20/32/44/56/110, timm:NAME"""
    attention: Annotated[str, types.Attention] = "none"
    """attention block in every residual block: a name of ATTENTION"""
    stem: Annotated[str, NameIn("stem", "sceneparse.models.classification.STEMS")] = "cifar"
    """cifar: 3x3 at full size; imagenet: 7x7, stride 2, pooling"""
    pretrained: types.FilePath | None = None
    """weights to start from: imagenet, a .safetensors or .pth file, or the folder of a run"""
    seeds: Annotated[list[types.Seed], Field(min_length=1, max_length=MAX_SEEDS)] = Field([0])
    """random seeds, one run each: 0-4, or [0, 1, 2]"""
    data: ClsDataSection = ClsDataSection()
    augment: ClsAugmentSection = ClsAugmentSection()
    optim: ClsOptimSection = ClsOptimSection()
    train: ClsTrainSection = ClsTrainSection()

    @field_validator("seeds", mode="before")
    @classmethod
    def _expanded(cls, value: Any) -> Any:  # noqa: ANN401 - whatever YAML holds
        """Read 3 as [3], and 0-4 as [0, 1, 2, 3, 4]."""
        if isinstance(value, int):
            return [value]
        if not isinstance(value, str):
            return value
        ends = [int(end) for end in value.split("-") if end.isdecimal()]
        if value.count("-") != 1 or len(ends) != 2 or ends[0] > ends[1]:
            raise ValueError(f"write them as 3, 0-4 or [0, 1, 2], the smaller first, got {value!r}")
        if ends[1] - ends[0] >= MAX_SEEDS:
            raise ValueError(f"at most {MAX_SEEDS} seeds, got {value}")
        return list(range(ends[0], ends[1] + 1))

    @field_validator("seeds")
    @classmethod
    def _different(cls, value: list[int]) -> list[int]:
        if len(set(value)) < len(value):
            raise ValueError(f"seeds must differ, got {value}")
        return value
