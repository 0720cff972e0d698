"""The base of every settings class: typed, checked, and closed to unknown keys."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Immutable settings; an unknown key is an error that names its neighbours (see ``loading``)."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
