"""What settings are made of: numbers within ranges, names of tables, sections with known keys."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from sceneparse.errors import unknown_name

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


def name_in(kind: str, table: str, *others: str) -> AfterValidator:
    """Allow only the names in a table, such as "sceneparse.losses.LOSSES", and `others`.

    Checks a text, or the keys of a mapping; other values pass. The table is imported when a value
    is checked, so that the configuration is read without torch. `kind` is the word for errors.
    """
    module, _, attribute = table.rpartition(".")

    def validate(value: Any) -> Any:  # noqa: ANN401 - a text, a mapping or what else is allowed
        names = value if isinstance(value, Mapping) else [value]
        for name in names:
            if isinstance(name, str) and name not in others:
                allowed = getattr(import_module(module), attribute)
                if name not in allowed:
                    raise unknown_name(kind, name, {*allowed, *others})
        return value

    return AfterValidator(validate)


Attention = name_in("attention", "sceneparse.layers.attention.ATTENTION")


class Section(BaseModel):
    """A group of settings that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)
