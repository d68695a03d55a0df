"""The settings of tools/study_seg.py: rows of a table, each a run per seed."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from sceneparse.config.types import Section, Seed

# A row's name is a folder's name too.
RowName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$", max_length=60)]


class StudyConfig(Section):
    """What is trained, and what it is compared with."""

    config: str = Field(description="configuration of the runs, relative to this file")
    split: str = Field("test", description="split that the runs are tested on")
    reference: str = Field(description="the row that the others are compared with")
    seeds: list[Seed] = Field([0, 1, 2], min_length=1, description="a run for each, in each row")
    rows: dict[RowName, dict[str, Any]] = Field(
        min_length=1, description="what each row changes: {section.key: value}"
    )

    @model_validator(mode="after")
    def _reference_is_a_row(self) -> StudyConfig:
        if self.reference not in self.rows:
            raise ValueError(
                f"reference '{self.reference}' is none of rows: {', '.join(self.rows)}"
            )
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("a seed is there twice")
        return self
