"""What settings are made of: numbers within ranges, and sections that refuse unknown keys."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

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


class Section(BaseModel):
    """A group of settings that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)
