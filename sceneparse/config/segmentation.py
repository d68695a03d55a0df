"""The settings of `sceneparse train`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sceneparse.config.types import (
    Attention,
    Color,
    Count,
    Decay,
    Deviations,
    Fraction,
    NameIn,
    NotNegative,
    OptimizerName,
    Positive,
    RunSection,
    Section,
    Seed,
    Size,
    Switch,
    Workers,
)


class DataSection(Section):
    """The images and masks, and how they are read."""

    dataset: Annotated[str, NameIn("dataset", "sceneparse.data.datasets.DATASETS")] = Field(
        "folder", description="layout of the dataset: a name of DATASETS in data/datasets.py"
    )
    root: str = Field(description="folder of the dataset")
    train_split: str = Field("train", description="name of the training split, or a list file")
    val_split: str = Field("val", description="name of the validation split, or a list file")
    classes: list[str] | None = Field(
        None, description="class names of a folder dataset without classes.txt"
    )
    mean: Color = Field((0.485, 0.456, 0.406), description="RGB mean of the images, in 0..1")
    std: Deviations = Field(
        (0.229, 0.224, 0.225), description="RGB standard deviation of the images, in 0..1"
    )
    sampling: Annotated[str, NameIn("sampling", "sceneparse.data.sampling.SAMPLING")] = Field(
        "uniform",
        description="how often each image is drawn: a name of SAMPLING in "
        "data/sampling.py; rare_crops also crops around rare classes",
    )
    stream: Switch = Field(
        False, description="fill the last step of an epoch with the first images of the next"
    )
    cache: Annotated[str, NameIn("cache", "sceneparse.data.cache.CACHES")] = Field(
        "none",
        description="keep decoded training images in memory (ram; auto: if it suffices) or "
        "on disk for later runs (disk)",
    )
    workers: Workers = Field(2, description="processes that load and augment; 0: the main process")
    timeout: Positive = Field(300.0, description="longest wait for a batch, in seconds")
    check: Literal["auto", "all", "none"] = Field(
        "auto", description="samples to check before training: all, none, or auto (500 of many)"
    )


class AugmentSection(Section):
    """Random augmentation of training images and masks."""

    crop: Size = Field((480, 480), description="height and width of training crops, in pixels")
    scale: tuple[Positive, Positive] = Field((0.5, 2.0), description="range of the random scale")
    rotate: NotNegative = Field(
        0.0, description="largest rotation in degrees, applied to half the images"
    )
    flip: Fraction = Field(0.5, description="probability of a horizontal mirror")
    blur: Fraction = Field(0.0, description="probability of a 5x5 Gaussian blur")
    color_jitter: Fraction = Field(
        0.0, description="strength of random brightness, contrast and saturation"
    )
    extra: list[dict[str, Any]] = Field(
        [], description="more albumentations transforms: [{name: GaussNoise, p: 0.3}]"
    )

    @model_validator(mode="after")
    def _ordered(self) -> AugmentSection:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale must be [smallest, largest], got {list(self.scale)}")
        return self


class ModelSection(Section):
    """The network; the number of classes comes from the dataset."""

    head: Annotated[str, NameIn("head", "sceneparse.models.heads.HEADS")] = Field(
        "strip_pooling", description="a name of HEADS in models/heads.py"
    )
    backbone: str = Field("resnet50", description="resnet18/34/50/101/152, or any timm model name")
    attention: Annotated[str | None, Attention] = Field(
        None,
        description="attention blocks in ResNets: a name of ATTENTION in "
        "layers/attention.py; null: strip_pooling, in timm models none",
    )
    attention_places: Literal["spnet", "all"] = Field(
        "spnet", description="residual blocks with attention: those of the paper, or all"
    )
    aux: Switch = Field(True, description="train with an auxiliary head on stage 3")
    output_stride: Literal[8, 16, 32] = Field(
        8, description="input pixels per feature: 8, 16 or 32"
    )
    width: Count | None = Field(
        None, description="channels inside the head; null: half the backbone's"
    )
    norm: Annotated[str, NameIn("norm", "sceneparse.layers.norms.NORMS")] = Field(
        "sync",
        description="batch norm over all GPUs (sync), per process (batch), or with the "
        "pretrained statistics (frozen); or group norm (group)",
    )
    zero_init_residual: Switch = Field(
        False, description="start mixed pooling as the identity, which helps with few images"
    )
    stem: Literal["deep", "plain"] = Field(
        "deep", description="ResNet stem: three 3x3 convolutions (deep) or one 7x7 (plain)"
    )
    base_width: Count = Field(
        64, description="channels of ResNet stage 1; fewer make a small network"
    )
    multi_grid: tuple[Count, Count, Count] | None = Field(
        (1, 2, 4), description="dilation factors of the blocks of ResNet stage 4; null: all 1"
    )
    freeze: Literal[0, 1, 2, 3, 4] = Field(
        0, description="first backbone stages that are not trained, to save time and memory"
    )
    pretrained: str | None = Field(
        None, description="weights of the backbone: imagenet, or a .safetensors or .pth file"
    )

    @model_validator(mode="after")
    def _freezes_pretrained(self) -> ModelSection:
        if self.freeze and self.pretrained is None:
            raise ValueError("freeze keeps pretrained weights; set pretrained, or freeze: 0")
        if self.norm == "frozen" and self.pretrained is None:
            raise ValueError("norm: frozen keeps pretrained statistics; set pretrained")
        if self.norm == "group" and self.pretrained == "imagenet":
            raise ValueError("ImageNet weights come with batch norm; use norm: frozen or batch")
        return self


class LossSection(Section):
    """The loss: a weighted sum of terms."""

    terms: Annotated[dict[str, Positive], NameIn("loss", "sceneparse.losses.LOSSES")] = Field(
        {"cross_entropy": 1.0},
        min_length=1,
        description="names of LOSSES in losses.py, each with its weight",
    )
    aux_weight: NotNegative = Field(0.4, description="weight of the auxiliary head's loss")
    class_weights: Annotated[
        str | list[NotNegative] | None,
        NameIn("rule for class weights", "sceneparse.data.balance.CLASS_WEIGHTS", ("auto",)),
    ] = Field(
        None,
        description="one weight per class, or a name of CLASS_WEIGHTS in data/balance.py, "
        "which computes them from the training masks; auto: median_frequency",
    )
    label_smoothing: Decay = Field(0.0, description="label smoothing of cross_entropy")
    ohem_threshold: Fraction = Field(
        0.7, description="ohem keeps pixels whose true class is less probable than this"
    )
    ohem_keep: Fraction = Field(0.0625, description="ohem keeps at least this share of the pixels")
    focal_gamma: NotNegative = Field(2.0, description="exponent of the focal loss")

    @model_validator(mode="after")
    def _positive_weight(self) -> LossSection:
        if isinstance(self.class_weights, list) and not any(self.class_weights):
            raise ValueError("class_weights must not all be 0")
        return self


class OptimSection(Section):
    """The optimiser, with a polynomial learning rate schedule."""

    name: OptimizerName = Field(
        "sgd", description="sgd with momentum as in the paper, adam or adamw (try lr 3e-4)"
    )
    lr: Positive = Field(0.01, description="initial learning rate of the backbone")
    head_lr_factor: Positive = Field(10.0, description="learning rate of the heads, times lr")
    momentum: Fraction = Field(0.9, description="momentum of sgd, first beta of adam and adamw")
    weight_decay: NotNegative = Field(1e-4, description="weight decay of all parameters")
    poly_power: Positive = Field(
        0.9, description="exponent of the schedule lr * (1 - step / steps) ** poly_power"
    )
    clip_norm: Positive | None = Field(None, description="largest gradient norm; null: no clipping")


class TrainSection(RunSection):
    """How long to train, batch size, precision and memory."""

    accumulate: Count = Field(1, description="parts that each batch is split into, to save memory")
    gradient_checkpointing: Switch = Field(
        False, description="compute the backbone's blocks twice: less memory, slower steps"
    )
    ema: Decay | None = Field(
        None, description="decay of averaged weights, which are evaluated and saved, e.g. 0.999"
    )

    @model_validator(mode="after")
    def _divisible(self) -> TrainSection:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of accumulate {self.accumulate}"
            )
        return self


class EvalSection(Section):
    """Validation at the images' own size, computed as in `sceneparse evaluate`."""

    every: Count = Field(1, description="epochs between validations; the last epoch always has one")
    protocol: Annotated[str, NameIn("protocol", "sceneparse.inference.protocols.PROTOCOLS")] = (
        Field(
            "whole",
            description="whole image (whole), sliding window (slide), or another name of "
            "PROTOCOLS in inference/protocols.py",
        )
    )
    crop: Size | None = Field(
        None, description="height and width of sliding windows; null: those of the training crop"
    )
    base: Count | None = Field(
        None,
        description="length that images are scaled to: of the long side (spnet) or the short "
        "side (mmseg); null: not scaled",
    )
    scales: Annotated[list[Positive], Field(min_length=1)] | None = Field(
        None, description="scales whose scores are averaged; null: those of the protocol"
    )
    mirror: Switch | None = Field(
        None, description="also average with the mirrored image; null: as in the protocol"
    )
    weighting: Annotated[
        str, NameIn("weighting of windows", "sceneparse.inference.windows.WEIGHTINGS")
    ] = Field("uniform", description="weights of the pixels in overlapping windows")


class SegConfig(Section):
    """All settings of `sceneparse train`."""

    output: str = Field("runs/unnamed", description="run folder; default: runs/NAME_OF_THE_CONFIG")
    seed: Seed = Field(0, description="random seed for weights, sample order and augmentation")
    data: DataSection
    augment: AugmentSection = AugmentSection()
    model: ModelSection = ModelSection()
    loss: LossSection = LossSection()
    optim: OptimSection = OptimSection()
    train: TrainSection = TrainSection()
    eval: EvalSection = EvalSection()
