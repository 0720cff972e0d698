"""The base of every settings class: typed, checked, and closed to unknown keys."""

from __future__ import annotations

import os
from typing import Annotated, Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

MOST_CHANNELS = 2**14
MOST_BLOCKS = 64
MOST_PIXELS_A_SIDE = 2**12
"""Far above those of any model; a header that asks for more would exhaust the memory."""

Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Settings(BaseModel):
    """Immutable settings; an unknown key is an error that suggests a similar one (see ``loading``)."""

    shipped: ClassVar[str | None] = None
    """Folder of the package whose YAML files can be named without path and suffix."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _home(cls, value: Any) -> Any:
        """Expand ``~/``, which a shell leaves as it is after ``=``."""
        return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~/") else value

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_no_text(cls, value: Any, info: ValidationInfo) -> Any:
        """Reject text and booleans for numbers: pydantic would read ``true`` as 1 and ``"010"`` as ten."""
        kinds = _kinds(cls.model_fields[str(info.field_name)].annotation)
        for one in value if isinstance(value, list | tuple) else (value,):
            if isinstance(one, bool | str) and kinds & {int, float} and not kinds & {bool, str}:
                raise ValueError("expected a number, as 10 or 1e-3; 'yes', '010' and '1:30' are none")
        return value


def _kinds(annotation: Any) -> set[Any]:
    """The types that an annotation consists of: itself, or the parts of a union or container."""
    parts = get_args(annotation)
    return set().union(*map(_kinds, parts)) if parts else {annotation}
