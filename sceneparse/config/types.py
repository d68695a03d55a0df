"""The types of settings: numbers within ranges, names of tables, sections with known keys."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
)
from pydantic_core.core_schema import CoreSchema, no_info_after_validator_function

from sceneparse.errors import InputError, unknown_name
from sceneparse.files import exists

Count = Annotated[int, Field(gt=0, lt=2**31, strict=True)]
CountOrZero = Annotated[int, Field(ge=0, lt=2**31, strict=True)]
Workers = Annotated[int, Field(ge=0, le=1024, strict=True)]
Seed = Annotated[int, Field(ge=0, lt=2**32, strict=True)]
Positive = Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, strict=True, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, strict=True, allow_inf_nan=False)]
Switch = Annotated[bool, Field(strict=True)]
Size = tuple[Count, Count]
Color = tuple[Fraction, Fraction, Fraction]
Deviation = Annotated[float, Field(gt=0, le=1, strict=True, allow_inf_nan=False)]
Deviations = tuple[Deviation, Deviation, Deviation]


def _path(text: str) -> str:
    """Return a path with slashes, unless it exists as it is; ~ stands for the user's home.

    Raises InputError for control characters, which YAML may make of backslashes in double quotes.
    """
    path = os.path.expanduser(text)  # noqa: PTH111 - raises for no such user
    if exists(Path(path)):
        return path
    if re.search(r"[\x00-\x1f]", path):
        raise InputError(
            "expected a path; in double quotes, YAML reads \\n, \\t, ... as control characters: "
            f"write / instead of \\, or use single quotes; got '{path}'"
        )
    return path.replace("\\", "/")


# A path to a file or folder.
FilePath = Annotated[str, AfterValidator(_path)]
Decay = Annotated[float, Field(ge=0, lt=1, strict=True)]


@dataclass(frozen=True)
class NameIn:
    """Allows only the names in a table, such as "sceneparse.losses.LOSSES", and `others`.

    Checks a text, or the keys of a mapping; other values pass. The table is imported when a value
    is checked, so that the configuration is read without torch. Error messages call the names
    `kind`.
    """

    kind: str
    table: str
    others: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """Return the allowed names."""
        module, _, attribute = self.table.rpartition(".")
        return [*self.others, *getattr(import_module(module), attribute)]

    def validate(self, value: Any) -> Any:  # noqa: ANN401 - of any type
        """Return the value; raises InputError, with the allowed names, for another name."""
        for name in value if isinstance(value, Mapping) else [value]:
            if isinstance(name, str) and name not in self.names():
                raise unknown_name(self.kind, name, self.names())
        return value

    def __get_pydantic_core_schema__(  # the hook of pydantic
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return no_info_after_validator_function(self.validate, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Add the names to the schema, for the reference of all settings."""
        return {**handler(schema), "names": self.names()}


Attention = NameIn("attention", "sceneparse.layers.attention.ATTENTION")
OptimizerName = Annotated[str, NameIn("optimiser", "sceneparse.training.optim.OPTIMIZERS")]


class Section(BaseModel):
    """A group of settings; an unknown key is an error. A text below a setting describes it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class RunSection(Section):
    """How long to train, batch size and precision."""

    epochs: Count = 120
    """passes over the training images"""
    batch_size: Count = 16
    """images per optimiser step, over all processes together"""
    amp: Annotated[
        str, NameIn("precision", "sceneparse.runtime.precision.PRECISIONS", ("auto",))
    ] = "auto"
    """precision; off: float32; auto: bf16 or fp16 on GPUs, bf16 on CPUs with AMX"""
    device: str | None = None
    """cpu, cuda, cuda:NUMBER or mps (the GPU of a Mac); null: the best there is, GPUs first"""
    channels_last: Switch = True
    """use the memory layout fastest for convolution; without effect on mps"""
    compile: Switch = False
    """compile the network with torch.compile: slow start, faster steps"""
    save_every: CountOrZero = 0
    """steps between checkpoints within an epoch; 0: save after epochs only"""
    most_bad_steps: Count = 10
    """stop after this many steps in a row whose loss is not finite"""
