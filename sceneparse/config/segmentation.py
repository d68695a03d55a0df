"""The settings of tools/train_seg.py."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

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
    Size,
    Switch,
    Workers,
)


class DataSection(Section):
    """Which images and masks, and how they are read."""

    dataset: Annotated[str, NameIn("dataset", "sceneparse.data.datasets.DATASETS")] = Field(
        "folder", description="layout of the dataset, a name of DATASETS in data/datasets.py"
    )
    root: str = Field(description="folder of the data set")
    train_split: str = Field("train", description="split name, or a list file under root")
    val_split: str = Field("val", description="split name, or a list file under root")
    classes: list[str] | None = Field(
        None, description="class names of a folder data set that has no classes.txt"
    )
    mean: Color = Field((0.485, 0.456, 0.406), description="RGB mean of images in 0..1")
    std: tuple[Deviation, Deviation, Deviation] = Field(
        (0.229, 0.224, 0.225), description="RGB standard deviation of images in 0..1"
    )
    sampling: Annotated[str, NameIn("sampling", "sceneparse.data.sampling.SAMPLING")] = Field(
        "uniform",
        description="how often each image comes, a name of SAMPLING in data/sampling.py; "
        "rare_crops also shows rare classes",
    )
    stream: Switch = Field(
        False, description="no incomplete last step: passes over the images follow one another"
    )
    cache: Annotated[str, NameIn("cache", "sceneparse.data.cache.CACHES")] = Field(
        "none",
        description="keep decoded training images in memory (ram; auto: if it is ample), "
        "or on disk for later runs (disk)",
    )
    workers: Workers = Field(2, description="processes that read and augment; 0 = none")
    timeout: Positive = Field(300.0, description="seconds until a silent worker counts as hung")
    check: Literal["auto", "all", "none"] = Field(
        "auto",
        description="files decoded before step 0: all, none, or auto (500 of many)",
    )


class AugmentSection(Section):
    """Random changes of the training images; masks follow."""

    crop: Size = Field((480, 480), description="height, width of the training crop in pixels")
    scale: tuple[Positive, Positive] = Field((0.5, 2.0), description="range of the random scale")
    rotate: NotNegative = Field(
        0.0, description="largest rotation in degrees, applied to half the images"
    )
    flip: Fraction = Field(0.5, description="probability of a horizontal mirror")
    blur: Fraction = Field(0.0, description="probability of a 5x5 Gaussian blur")
    color_jitter: Fraction = Field(
        0.0, description="strength of brightness, contrast and saturation jitter"
    )

    extra: list[dict[str, Any]] = Field(
        [], description="albumentations transforms after these: [{name: GaussNoise, p: 0.3}]"
    )

    @model_validator(mode="after")
    def _ordered(self) -> AugmentSection:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale must be [smallest, largest], got {list(self.scale)}")
        return self


class ModelSection(Section):
    """The network; the number of classes comes from the data set."""

    head: Annotated[str, NameIn("head", "sceneparse.models.heads.HEADS")] = Field(
        "strip_pooling", description="a name of HEADS in models/heads.py"
    )
    backbone: str = Field("resnet50", description="resnet18/34/50/101/152, or any timm model name")
    attention: Annotated[str | None, Attention] = Field(
        None,
        description="blocks in ResNets, a name of ATTENTION in layers/attention.py; "
        "null: strip_pooling, in timm models none",
    )
    attention_places: Literal["spnet", "all"] = Field(
        "spnet", description="the paper's places, or all residual blocks"
    )
    aux: Switch = Field(True, description="auxiliary head on stage 3 while training")
    output_stride: Literal[8, 16, 32] = Field(
        8, description="input pixels per feature: 8, 16 or 32"
    )
    width: Count | None = Field(
        None, description="channels inside the head; null: half the backbone's"
    )
    norm: Annotated[str, NameIn("norm", "sceneparse.layers.norms.NORMS")] = Field(
        "sync",
        description="batch norm per process, over all GPUs (sync), or with the pretrained "
        "statistics (frozen); or group norm",
    )
    zero_init_residual: Switch = Field(
        False, description="mixed pooling starts as the identity; learns faster from few images"
    )
    stem: Literal["deep", "plain"] = Field(
        "deep", description="ResNet stem: three 3x3 convs or one 7x7"
    )
    base_width: Count = Field(
        64, description="channels of ResNet stage 1; less makes a small network"
    )
    multi_grid: tuple[Count, Count, Count] | None = Field(
        (1, 2, 4), description="dilation factors of the blocks of ResNet stage 4; null: all 1"
    )
    freeze: Literal[0, 1, 2, 3, 4] = Field(
        0, description="backbone stages that keep their pretrained weights; saves time and memory"
    )
    pretrained: str | None = Field(
        None, description="imagenet, or a .safetensors/.pth file of the backbone"
    )

    @model_validator(mode="after")
    def _worth_freezing(self) -> ModelSection:
        if self.freeze and self.pretrained is None:
            raise ValueError("freeze keeps pretrained weights; set pretrained, or freeze: 0")
        if self.norm == "frozen" and self.pretrained is None:
            raise ValueError("norm: frozen keeps pretrained statistics; set pretrained")
        if self.norm == "group" and self.pretrained == "imagenet":
            raise ValueError("ImageNet weights come with batch norm; use norm: frozen or batch")
        return self


class LossSection(Section):
    """What is minimised: a weighted sum of losses."""

    terms: Annotated[dict[str, Positive], NameIn("loss", "sceneparse.losses.LOSSES")] = Field(
        {"cross_entropy": 1.0},
        min_length=1,
        description="names of LOSSES in losses.py and their weights",
    )
    aux_weight: NotNegative = Field(0.4, description="weight of the auxiliary head's loss")
    class_weights: Annotated[
        str | list[NotNegative] | None,
        NameIn("rule for class weights", "sceneparse.data.balance.CLASS_WEIGHTS", ("auto",)),
    ] = Field(
        None,
        description="a weight per class, or a name of CLASS_WEIGHTS in data/balance.py, which "
        "computes them from the training masks; auto: median_frequency",
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1, strict=True)] = Field(
        0.0, description="of cross_entropy"
    )
    ohem_threshold: Fraction = Field(0.7, description="ohem keeps pixels less probable than this")
    ohem_keep: Fraction = Field(0.0625, description="and at least this share of the pixels")
    focal_gamma: NotNegative = Field(2.0, description="power of focal")

    @model_validator(mode="after")
    def _something_counts(self) -> LossSection:
        if isinstance(self.class_weights, list) and not any(self.class_weights):
            raise ValueError("class_weights must not all be 0")
        return self


class OptimSection(Section):
    """The optimiser, on a polynomial schedule."""

    name: Literal["sgd", "adamw"] = Field(
        "sgd", description="sgd with momentum as in the paper, or adamw (try lr 3e-4)"
    )
    lr: Positive = Field(0.01, description="learning rate of the backbone")
    head_lr_factor: Positive = Field(10.0, description="the heads learn this many times faster")
    momentum: Fraction = Field(0.9, description="of SGD; first beta of AdamW")
    weight_decay: NotNegative = Field(1e-4, description="of all parameters")
    poly_power: Positive = Field(
        0.9, description="lr * (1 - step / steps) ** poly_power, each step"
    )
    clip_norm: Positive | None = Field(None, description="largest gradient norm; null: no clipping")


class TrainSection(Section):
    """How long, how much at once, at which precision."""

    epochs: Count = Field(120, description="passes over the training images")
    batch_size: Count = Field(
        16, description="images per optimiser step, over all processes together"
    )
    accumulate: Count = Field(1, description="pieces a batch is split into to save memory")
    amp: Literal["auto", "bf16", "fp16", "off"] = Field(
        "auto", description="mixed precision; auto: bf16 or fp16 on GPUs, bf16 on CPUs with AMX"
    )
    channels_last: Switch = Field(True, description="memory layout that convolutions prefer")
    compile: Switch = Field(
        False, description="torch.compile the network: minutes of building, then faster steps"
    )
    gradient_checkpointing: Switch = Field(
        False, description="keep only the inputs of the backbone's blocks: less memory, slower"
    )
    save_every: CountOrZero = Field(
        0, description="steps between checkpoints within an epoch; 0: at its end only"
    )
    most_bad_steps: Count = Field(
        10, description="steps in a row without a finite loss after which the run gives up"
    )
    ema: Annotated[float, Field(ge=0, lt=1, strict=True)] | None = Field(
        None, description="decay of the averaged weights that are evaluated and saved, e.g. 0.999"
    )

    @model_validator(mode="after")
    def _divisible(self) -> TrainSection:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of accumulate {self.accumulate}"
            )
        return self


class EvalSection(Section):
    """Validation at the images' own size, with the functions of tools/eval_miou.py."""

    every: Count = Field(1, description="epochs between validations; the last epoch always has one")
    protocol: Annotated[str, NameIn("protocol", "sceneparse.inference.protocols.PROTOCOLS")] = (
        Field(
            "whole",
            description="whole image, sliding window (slide), or as others test; a name of "
            "PROTOCOLS in inference/protocols.py",
        )
    )
    crop: Size | None = Field(None, description="window of slide; null: the training crop")
    base: Count | None = Field(
        None,
        description="scale images to this long (spnet) or short (mmseg) side; null: not at all",
    )
    scales: Annotated[list[Positive], Field(min_length=1)] | None = Field(
        None, description="scales whose scores are averaged; null: as the protocol has it"
    )
    mirror: Switch | None = Field(
        None, description="average with the mirror image; null: as the protocol has it"
    )
    weighting: Annotated[
        str, NameIn("weighting of windows", "sceneparse.inference.windows.WEIGHTINGS")
    ] = Field("uniform", description="weights of the pixels in overlapping windows")


class SegConfig(Section):
    """Everything tools/train_seg.py needs."""

    output: str = Field("runs/unnamed", description="run folder; default: runs/NAME_OF_THE_CONFIG")
    seed: Seed = Field(0, description="of weights, order and augmentation")
    data: DataSection
    augment: AugmentSection = AugmentSection()
    model: ModelSection = ModelSection()
    loss: LossSection = LossSection()
    optim: OptimSection = OptimSection()
    train: TrainSection = TrainSection()
    eval: EvalSection = EvalSection()
