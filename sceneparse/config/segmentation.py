"""The settings of `sceneparse train`."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from sceneparse.config import types
from sceneparse.config.types import NameIn


class DataSection(types.Section):
    """The images and masks, and how they are read."""

    dataset: Annotated[str, NameIn("dataset", "sceneparse.data.datasets.DATASETS")] = "folder"
    """layout of the dataset: a name of DATASETS in data/datasets.py"""
    root: types.FilePath
    """folder of the dataset"""
    train_split: str = "train"
    """name of the training split, or a list file under root"""
    val_split: str = "val"
    """name of the validation split, or a list file under root"""
    classes: list[str] | None = None
    """class names of a folder dataset without classes.txt"""
    bit_depth: Annotated[int, Field(ge=9, le=16, strict=True)] | None = None
    """bits that 16-bit images really use, e.g. 12; null: all 16"""
    resize: dict[Literal["long", "short"], types.Count] | None = None
    """length of the long or short side that images are first scaled to: {long: 640}; null: none"""
    mean: types.Color | None = None
    """RGB mean in 0..1; null: that of the pretrained weights, else ImageNet's"""
    std: types.Deviations | None = None
    """RGB standard deviation in 0..1; null: that of the pretrained weights, else ImageNet's"""
    sampling: Annotated[str, NameIn("sampling", "sceneparse.data.sampling.SAMPLING")] = "uniform"
    """how often images are drawn; rare_crops also crops around rare classes (data/sampling.py)"""
    stream: types.Switch = False
    """fill the last step of an epoch with the first images of the next"""
    cache: Annotated[str, NameIn("cache", "sceneparse.data.cache.CACHES")] = "none"
    """keep decoded training images in memory (ram; auto: if they fit) or on disk for later runs"""
    workers: types.Workers = 2
    """processes that load and augment; 0: the main process"""
    timeout: types.Positive = 300.0
    """longest wait for a batch, in seconds"""
    check: Literal["auto", "all", "none"] = "auto"
    """samples to check before training: all, none, or auto (500 of many)"""

    @model_validator(mode="after")
    def _one_side(self) -> DataSection:
        if self.resize is not None and len(self.resize) != 1:
            raise ValueError("resize takes the long or the short side, e.g. {long: 640}")
        return self


class AugmentSection(types.Section):
    """Random augmentation of training images and masks."""

    crop: types.Size = (480, 480)
    """height and width of training crops, in pixels"""
    scale: tuple[types.Positive, types.Positive] = (0.5, 2.0)
    """range of the random scale"""
    rotate: types.NotNegative = 0.0
    """largest rotation in degrees, applied to half the images"""
    flip: types.Fraction = 0.5
    """probability of a horizontal mirror"""
    blur: types.Fraction = 0.0
    """probability of a 5x5 Gaussian blur"""
    color_jitter: types.Fraction = 0.0
    """strength of random brightness, contrast and saturation"""
    extra: list[dict[str, Any]] = Field([])
    """more albumentations transforms: [{name: GaussNoise, p: 0.3}]"""

    @model_validator(mode="after")
    def _ordered(self) -> AugmentSection:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale must be [smallest, largest], got {list(self.scale)}")
        return self


class ModelSection(types.Section):
    """The network; the number of classes comes from the dataset."""

    head: Annotated[str, NameIn("head", "sceneparse.models.heads.HEADS")] = "strip_pooling"
    """a name of HEADS in models/heads.py"""
    backbone: str = "resnet50"
    """resnet18/34/50/101/152, or the name of a timm model"""
    attention: Annotated[str | None, types.Attention] = None
    """attention blocks (layers/attention.py); null: strip_pooling in ResNets, else none"""
    attention_places: Literal["spnet", "all"] = "spnet"
    """residual blocks with attention: those of the paper, or all"""
    aux: types.Switch = True
    """train with an auxiliary head on stage 3"""
    output_stride: Literal[8, 16, 32] = 8
    """input pixels per feature: 8, 16 or 32"""
    width: types.Count | None = None
    """channels inside the head; null: the default of the head"""
    head_options: dict[str, Any] = Field({})
    """options of the head, as the table of heads lists them, such as {fine_strip: true}"""
    norm: Annotated[str, NameIn("norm", "sceneparse.layers.norms.NORMS")] = "sync"
    """sync (batch norm over all GPUs), batch, frozen (pretrained statistics) or group norm"""
    zero_init_residual: types.Switch = False
    """start mixed pooling as the identity, which helps with few images"""
    stem: Literal["deep", "plain"] = "deep"
    """ResNet stem: three 3x3 convolutions (deep) or one 7x7 (plain)"""
    base_width: types.Count = 64
    """channels of ResNet stage 1; fewer make a small network"""
    multi_grid: tuple[types.Count, types.Count, types.Count] | None = (1, 2, 4)
    """dilation factors of the blocks of ResNet stage 4; null: all 1"""
    freeze: Literal[0, 1, 2, 3, 4] = 0
    """first backbone stages that are not trained, to save time and memory"""
    pretrained: types.FilePath | None = None
    """weights to start from: imagenet, a .safetensors or .pth file, or the folder of a run"""

    @model_validator(mode="after")
    def _freezes_pretrained(self) -> ModelSection:
        if self.freeze and self.pretrained is None:
            raise ValueError("freeze keeps pretrained weights; set pretrained, or freeze: 0")
        if self.norm == "frozen" and self.pretrained is None:
            raise ValueError("norm: frozen keeps pretrained statistics; set pretrained")
        if self.norm == "group" and self.pretrained == "imagenet":
            raise ValueError("ImageNet weights come with batch norm; use norm: frozen or batch")
        return self

    @model_validator(mode="after")
    def _known_head_options(self) -> ModelSection:
        if self.head_options:  # imported here, since heads need torch
            heads = import_module("sceneparse.models.heads")
            heads.validate_head_options(self.head, self.head_options)
        return self


class LossSection(types.Section):
    """The loss: a weighted sum of terms."""

    terms: Annotated[dict[str, types.Positive], NameIn("loss", "sceneparse.losses.LOSSES")] = Field(
        {"cross_entropy": 1.0}, min_length=1
    )
    """names of LOSSES in losses.py, each with its weight"""
    aux_weight: types.NotNegative = 0.4
    """weight of the auxiliary head's loss"""
    class_weights: Annotated[
        str | list[types.NotNegative] | None,
        NameIn("rule for class weights", "sceneparse.data.balance.CLASS_WEIGHTS", ("auto",)),
    ] = None
    """a weight per class, or a rule of data/balance.py for them; auto: damped"""
    label_smoothing: types.Decay = 0.0
    """label smoothing of cross_entropy and boundary_cross_entropy"""
    ohem_threshold: types.Fraction = 0.7
    """ohem keeps pixels whose true class is less probable than this"""
    ohem_keep: types.Fraction = 0.0625
    """ohem keeps at least this share of the pixels"""
    focal_gamma: types.NotNegative = 2.0
    """exponent of the focal loss"""

    @model_validator(mode="after")
    def _positive_weight(self) -> LossSection:
        if isinstance(self.class_weights, list) and not any(self.class_weights):
            raise ValueError("class_weights must not all be 0")
        return self


class OptimSection(types.Section):
    """The optimiser, with a polynomial learning rate schedule."""

    name: types.OptimizerName = "sgd"
    """sgd with momentum as in the paper, adam or adamw (try lr 3e-4)"""
    lr: types.Positive = 0.01
    """initial learning rate of the backbone"""
    head_lr_factor: types.Positive = 10.0
    """learning rate of the heads, and of a pyramid in the backbone, times lr"""
    momentum: types.Fraction = 0.9
    """momentum of sgd, first beta of adam and adamw"""
    weight_decay: types.NotNegative = 1e-4
    """weight decay of all parameters"""
    poly_power: types.Positive = 0.9
    """exponent of the schedule lr * (1 - step / steps) ** poly_power"""
    clip_norm: types.Positive | None = None
    """largest gradient norm; null: no clipping"""


class TrainSection(types.RunSection):
    """How long to train, batch size, precision and memory."""

    epochs: types.Count = 120
    """passes over the training images, or parts of steps_per_epoch steps; the most with minutes"""
    steps_per_epoch: types.Count | None = None
    """optimiser steps that count as one epoch, however many images there are; null: one pass"""
    minutes: types.Positive | None = None
    """minutes that training and validations may take; epochs that do not fit are left out"""
    accumulate: types.Count = 1
    """parts that each batch is split into, to save memory"""
    gradient_checkpointing: types.Switch = False
    """compute the backbone's blocks twice: less memory, slower steps"""
    ema: types.Decay | None = None
    """decay of averaged weights, which are evaluated and saved, e.g. 0.999"""

    @model_validator(mode="after")
    def _divisible(self) -> TrainSection:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of accumulate {self.accumulate}"
            )
        return self


class EvalSection(types.Section):
    """Validation at the images' own size, computed as in `sceneparse evaluate`."""

    every: types.Count = 1
    """epochs between validations; the last epoch always has one"""
    protocol: Annotated[str, NameIn("protocol", "sceneparse.inference.protocols.PROTOCOLS")] = (
        "whole"
    )
    """whole image, sliding windows (slide), or another protocol of inference/protocols.py"""
    crop: types.Size | None = None
    """height and width of sliding windows; null: those of the training crop"""
    base: types.Count | None = None
    """length of the long side (spnet) or short side (mmseg) of scaled images; null: not scaled"""
    scales: Annotated[list[types.Positive], Field(min_length=1)] | None = None
    """scales whose scores are averaged; null: those of the protocol"""
    mirror: types.Switch | None = None
    """also average with the mirrored image; null: as in the protocol"""
    weighting: Annotated[
        str, NameIn("weighting of windows", "sceneparse.inference.windows.WEIGHTINGS")
    ] = "uniform"
    """weights of the pixels in overlapping windows"""


class SegConfig(types.Section):
    """All settings of `sceneparse train`."""

    output: types.FilePath = "runs/unnamed"
    """run folder; default: runs/NAME_OF_THE_CONFIG"""
    seed: types.Seed = 0
    """random seed for weights, sample order and augmentation"""
    data: DataSection
    augment: AugmentSection = AugmentSection()
    model: ModelSection = ModelSection()
    loss: LossSection = LossSection()
    optim: OptimSection = OptimSection()
    train: TrainSection = TrainSection()
    eval: EvalSection = EvalSection()

    @field_validator("train")
    @classmethod
    def _streams_once(cls, train: TrainSection, info: ValidationInfo) -> TrainSection:
        data = info.data.get("data")
        if train.steps_per_epoch is not None and data is not None and data.stream:
            raise ValueError(
                "steps_per_epoch goes through the images without a break anyway, so data.stream "
                "has no effect; set data.stream: false"
            )
        return train
