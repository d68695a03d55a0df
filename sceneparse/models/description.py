"""The description of a model in plain values: arguments of its builder, classes, normalisation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from sceneparse.errors import InputError, one_line, refusing


class Described:
    """Gives a network `meta`, its description; the properties are those of a trained model.

    "model" holds the arguments that the builder rebuilds the network with.
    """

    meta: dict[str, Any]

    @property
    def classes(self) -> list[str]:
        """Names of the classes, by number."""
        return list(self._described("classes"))

    @property
    def colors(self) -> list[tuple[int, int, int]]:
        """RGB colours 0..255 of the classes of a segmentation model, by number."""
        return [(red, green, blue) for red, green, blue in self._described("colors")]

    @property
    def mean(self) -> tuple[float, ...]:
        """RGB mean in 0..1 that images are normalised with."""
        return tuple(self._described("mean"))

    @property
    def std(self) -> tuple[float, ...]:
        """RGB standard deviation in 0..1 that images are normalised with."""
        return tuple(self._described("std"))

    @property
    def bit_depth(self) -> int | None:
        """Bits that 16-bit images of the training data use; None: all 16, or not known."""
        depth: int | None = self.meta.get("data", {}).get("bit_depth")
        return depth

    def _described(self, key: str) -> Any:  # noqa: ANN401 - meta holds plain values
        if key not in self.meta:
            raise InputError(
                f"this model has no {key}: it is not from a training run; set model.meta['{key}'], "
                "and all of classes, colors (RGB in 0..255), mean and std (RGB in 0..1); "
                "published weights get them by `sceneparse weights IN OUT --dataset NAME`"
            )
        return self.meta[key]


def check_description(meta: object, source: object) -> dict[str, Any]:
    """Return a description that was read from `source`; raise InputError if a value is wrong.

    A DeepLabV3+ head without options is of a version whose convolutions were plain.
    """
    with refusing(source, "does not describe a model of ours"):
        try:
            _Description.model_validate(meta)
        except ValidationError as error:
            raise ValueError(first_problem(error)) from error
    assert isinstance(meta, dict)  # as validated
    model = meta["model"]
    if model.get("head") == "deeplabv3plus" and "head_options" not in model:
        meta = {**meta, "model": {**model, "head_options": {"separable": False}}}
    return meta


def check_calibration(values: object, source: object) -> dict[str, Any]:
    """Return the calibration of a model that was read from `source`; raises InputError."""
    with refusing(source, "damaged; delete it, then run `sceneparse calibrate` again"):
        try:
            _Calibration.model_validate(values)
        except ValidationError as error:
            raise ValueError(first_problem(error)) from error
    assert isinstance(values, dict)  # as validated
    return values


def first_problem(error: ValidationError) -> str:
    """Return the place of the first problem, and the problem."""
    first = error.errors(include_input=False, include_url=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}"


def _printable(name: str) -> str:
    if name != one_line(name):
        raise ValueError(f"'{one_line(name)}' has characters that cannot be printed")
    return name


_Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]
_Byte = Annotated[int, Field(ge=0, le=255)]
_Number = Annotated[float, Field(allow_inf_nan=False)]
_Deviation = Annotated[float, Field(allow_inf_nan=False, gt=0)]
_Three = Field(min_length=3, max_length=3)


class _Part(BaseModel):
    """A part of a description; keys that it does not list can hold anything."""

    model_config = ConfigDict(strict=True, extra="allow")


class _Data(_Part):
    dataset: str = ""
    root: str = ""
    val_split: str = ""
    bit_depth: Annotated[int, Field(ge=9, le=16)] | None = None
    resize: (
        Annotated[
            dict[Literal["long", "short"], Annotated[int, Field(ge=1, le=65_535)]],
            Field(min_length=1, max_length=1),
        ]
        | None
    ) = None


class _Protocol(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    name: str
    crop: Annotated[list[int], Field(min_length=2, max_length=2)] | None = None
    base: int | None = None
    scales: list[_Number] | None = None
    mirror: bool | None = None
    weighting: str | None = None


class _Training(_Part):
    amp: str = ""
    epochs: int = 1
    batch_size: int = 1


class _Config(_Part):
    train: _Training = _Training()


class _Pretrained(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    weights: _Name
    licence: _Name


_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class _Risk(_Part):
    thresholds: Annotated[list[_Share], Field(min_length=1, max_length=1000)]
    error: list[_Share | None]

    @model_validator(mode="after")
    def _error_at_each_threshold(self) -> _Risk:
        if len(self.error) != len(self.thresholds) or self.thresholds != sorted(self.thresholds):
            raise ValueError("thresholds must rise, with an error for each")
        if self.error[0] is None:
            raise ValueError("the first error must be known")
        return self


class _Calibration(_Part):
    step: int
    weights: str
    temperature: Annotated[float, Field(ge=0.01, le=100, allow_inf_nan=False)]
    protocol: str
    split: str
    images: Annotated[int, Field(ge=1)]
    risk: _Risk


class _Description(_Part):
    task: Literal["segmentation", "classification"] = "segmentation"
    model: dict[str, Any]
    classes: Annotated[list[_Name], Field(min_length=2, max_length=65_535)] = []
    colors: list[Annotated[list[_Byte], _Three]] = []
    mean: Annotated[list[_Number], _Three] = []
    std: Annotated[list[_Deviation], _Three] = []
    data: _Data = _Data()
    eval: _Protocol = _Protocol(name="whole")
    pretrained: _Pretrained | None = None
    calibration: _Calibration | None = None
    amp: str = ""
    epoch: int = 0
    config: _Config = _Config()

    @model_validator(mode="after")
    def _color_for_each_class(self) -> _Description:
        if "colors" in self.model_fields_set and len(self.colors) != len(self.classes):
            raise ValueError(f"{len(self.colors)} colors for {len(self.classes)} classes")
        return self
