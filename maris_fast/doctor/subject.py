"""What is about to be run, as far as the command line specifies it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maris_fast.config import (
    CacheSettings,
    ModelSettings,
    StoreAddress,
    TrainingSettings,
    as_override,
    load_settings,
)
from maris_fast.config.loading import read_values
from maris_fast.errors import ConfigError
from maris_fast.system.launchers import place_of


@dataclass(frozen=True)
class Subject:
    """``ranks``: ranks on this machine. ``problem``: why the given settings cannot be used.

    ``launched``: a launcher has started this process as one of several ranks; ``first_here``: it is the first
    one on this machine.
    """

    training: TrainingSettings | None = None
    caching: CacheSettings | None = None
    problem: str | None = None
    cache: Path | StoreAddress | None = None
    ranks: int = 1
    machines: int = 1
    launched: bool = False
    first_here: bool = True

    @property
    def world(self) -> int:
        return self.ranks * self.machines

    @property
    def model(self) -> ModelSettings:
        return self.training.model if self.training else ModelSettings()

    @property
    def wants_gpu(self) -> bool:
        """Whether the settings require a GPU."""
        settings = self.training.engine if self.training else self.caching
        return settings is not None and settings.device == "cuda"

    @property
    def refuses_gpu(self) -> bool:
        settings = self.training.engine if self.training else self.caching
        return settings is not None and settings.device == "cpu"


def subject_of(
    configs: Sequence[Path],
    overrides: Sequence[str] = (),
    *,
    cache: Path | StoreAddress | None = None,
    ranks: int | None = None,
    machines: int = 1,
) -> Subject:
    """The subject of a command line; a launcher's numbers of ranks take precedence over those given.

    Args:
        configs: YAML of a training or of a cache (with a section ``encoders``); none: the machine alone.
        overrides: ``section.key=value``.
        cache: replaces the settings' ``data.cache``.
        ranks: number of ranks on this machine.
    """
    place = place_of()
    if launched := place.world > 1:
        ranks = place.local_world or 1
        machines = place.world // ranks
    training, caching, problem = None, None, None
    if configs:
        try:
            if "encoders" in read_values(configs, overrides):
                caching = load_settings(CacheSettings, configs, overrides)
            else:
                named = [as_override("data.cache", cache)] if cache else []
                training = load_settings(TrainingSettings, configs, [*overrides, *named])
                cache = training.data.cache
        except ConfigError as error:
            problem = str(error)
    return Subject(training, caching, problem, cache, ranks or 1, machines, launched, not place.local_rank)
