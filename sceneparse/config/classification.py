"""The settings of tools/train_cls.py."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from sceneparse.config.types import (
    Attention,
    Color,
    Count,
    CountOrZero,
    Deviation,
    Fraction,
    NameIn,
    NotNegative,
    Positive,
    Section,
    Seed,
    Switch,
)

_MOST_SEEDS = 1000
Seeds = Annotated[list[Seed], Field(min_length=1, max_length=_MOST_SEEDS)]


class ClsDataSection(Section):
    """Which images, and which part of them is for training."""

    dataset: Annotated[str, NameIn("dataset", "sceneparse.data.image_folders.IMAGE_DATASETS")] = (
        Field("cifar10", description="cifar10, cifar100, or folder (SPLIT/CLASS/IMAGE)")
    )
    root: str = Field("data", description="folder of the data set; CIFAR is downloaded to it")
    train_split: str = Field("train", description="of dataset folder")
    test_split: str = Field("test", description="of dataset folder")
    size: Count = Field(32, description="side of the images of dataset folder, in pixels")
    limit: CountOrZero = Field(
        0, description="training images used, of each class its share; 0: all of them"
    )
    holdout: CountOrZero = Field(
        0, description="training images held out, on which the best epoch is chosen"
    )
    mean: Color | None = Field(None, description="RGB mean in 0..1; null: of the training images")
    std: tuple[Deviation, Deviation, Deviation] | None = Field(
        None, description="RGB standard deviation in 0..1; null: of the training images"
    )


class ClsAugmentSection(Section):
    """Random changes of the training images."""

    padding: CountOrZero = Field(
        4, description="zeros around the image before the random crop; 0: none"
    )
    mirror: Switch = Field(True, description="mirror half the images")


class ClsOptimSection(Section):
    """The optimiser and its schedule."""

    name: Literal["sgd", "adam", "adamw"] = Field("sgd", description="sgd, adam or adamw")
    lr: Positive = Field(
        0.1, description="learning rate at the start; null: 0.1 with sgd, 0.001 with adam and adamw"
    )
    momentum: Fraction = Field(0.9, description="of SGD; first beta of Adam")
    nesterov: Switch = Field(False, description="Nesterov's momentum, of SGD")
    weight_decay: NotNegative = Field(5e-4, description="of all parameters but GCT's beta")
    schedule: Literal["step", "cosine", "constant"] = Field(
        "step", description="step (times gamma at milestones), cosine (to 0), constant"
    )
    milestones: list[Count] = Field([100, 150], description="epochs after which lr falls")
    gamma: Positive = Field(0.1, description="lr falls by this factor")

    @model_validator(mode="before")
    @classmethod
    def _usual_rate(cls, values: Any) -> Any:  # noqa: ANN401 - whatever YAML holds
        """Put the optimiser's usual learning rate where none is given, so that it is recorded."""
        if isinstance(values, dict) and values.get("lr") is None:
            return {**values, "lr": 0.1 if values.get("name", "sgd") == "sgd" else 0.001}
        return values


class ClsTrainSection(Section):
    """How long, how much at once, at which precision."""

    epochs: Count = Field(200, description="passes over the training images")
    batch_size: Count = Field(128, description="images per optimiser step")
    amp: Literal["auto", "bf16", "fp16", "off"] = Field(
        "auto", description="mixed precision; auto: bf16 or fp16 on GPUs, bf16 on CPUs with AMX"
    )
    channels_last: Switch = Field(True, description="memory layout that convolutions prefer")
    save_every: CountOrZero = Field(
        0, description="steps between checkpoints within an epoch; 0: at its end only"
    )
    most_bad_steps: Count = Field(
        10, description="steps in a row without a finite loss after which the run gives up"
    )
    compile: Switch = Field(False, description="torch.compile the network")


class ClsConfig(Section):
    """Everything tools/train_cls.py needs."""

    output: str = Field("runs/unnamed", description="folder of the runs; default: runs/NAME")
    model: str = Field("resnet18", description="resnet18/34/50, resnet20/32/44/56/110, timm:NAME")
    attention: Annotated[str, Attention] = Field(
        "none", description="blocks in every residual block, a name of ATTENTION"
    )
    stem: Literal["cifar", "imagenet"] = Field(
        "cifar", description="cifar: 3x3 at full size; imagenet: 7x7, stride 2, pooling"
    )
    seeds: Seeds = Field([0], description="one run each: 0-4, or [0, 1, 2]")
    data: ClsDataSection = ClsDataSection()
    augment: ClsAugmentSection = ClsAugmentSection()
    optim: ClsOptimSection = ClsOptimSection()
    train: ClsTrainSection = ClsTrainSection()

    @field_validator("seeds", mode="before")
    @classmethod
    def _range(cls, value: Any) -> Any:  # noqa: ANN401 - whatever YAML holds
        """Read 3 as [3], and 0-4 as [0, 1, 2, 3, 4]."""
        if isinstance(value, int):
            return [value]
        if not isinstance(value, str):
            return value
        ends = [int(end) for end in value.split("-") if end.isdecimal()]
        if value.count("-") != 1 or len(ends) != 2 or ends[0] > ends[1]:
            raise ValueError(f"write them as 3, 0-4 or [0, 1, 2], the smaller first, got {value!r}")
        if ends[1] - ends[0] >= _MOST_SEEDS:
            raise ValueError(f"at most {_MOST_SEEDS} seeds, got {value}")
        return list(range(ends[0], ends[1] + 1))

    @field_validator("seeds")
    @classmethod
    def _different(cls, value: list[int]) -> list[int]:
        if len(set(value)) < len(value):
            raise ValueError(f"seeds must differ, got {value}")
        return value
