"""What an ablation trains: rows of the paper, seeds, and the settings of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maris_fast.ablation.paper import FRAGMENTS, VARIANTS, Variant
from maris_fast.config import (
    ReadingSettings,
    StoreAddress,
    TrainingSettings,
    as_override,
    flat,
    load_settings,
)
from maris_fast.errors import ConfigError

OWN = ("run.folder", "run.seed", "run.resume", "data.cache")
"""Settings that an ablation sets itself for each run."""

# Where and how runs are written and data is read; all other settings affect the comparison of rows.
FREE = ("run.", "data.cache", *(f"data.{name}" for name in ReadingSettings.model_fields))


@dataclass(frozen=True)
class AblationRun:
    variant: Variant
    seed: int

    @property
    def name(self) -> str:
        """Name of the run and of its folder."""
        return f"{self.variant.name}-seed-{self.seed}"


@dataclass(frozen=True)
class Ablation:
    """``runs`` of one base, on one cache, scored on one split of it."""

    folder: Path
    cache: Path | StoreAddress
    base: tuple[Path, ...]
    overrides: tuple[str, ...]
    split: str
    runs: tuple[AblationRun, ...]

    def __post_init__(self) -> None:
        for override in self.overrides:
            key = override.partition("=")[0]
            if key in OWN:
                raise ConfigError(
                    f"{override}: an ablation sets {key} of each run itself; leave it out "
                    "and give `cache`, `out` or `seeds` instead"
                )
            undone = [each.name for each in self.variants if key in each.settings]
            if undone:
                raise ConfigError(
                    f"{override} would undo what makes {', '.join(undone)}; leave it out, or those rows with "
                    "`rows`"
                )

    @property
    def variants(self) -> list[Variant]:
        return list(dict.fromkeys(run.variant for run in self.runs))

    def run_folder(self, run: AblationRun) -> Path:
        return self.folder / run.name

    def configs(self, variant: Variant | None) -> list[Path]:
        """Settings files of a row, or of the base alone for None; later files win."""
        return [*self.base, *([variant.fragment] if variant else [])]

    def run_overrides(self, run: AblationRun) -> list[str]:
        """Overrides that follow the files on the command line of a run."""
        own = (self.run_folder(run), run.seed, "auto", self.cache)
        return [*self.overrides, *(as_override(*pair) for pair in zip(OWN, own, strict=True))]

    def settings(self, variant: Variant | None) -> TrainingSettings:
        """Settings of a row, or of the base for None.

        Raises:
            ConfigError: files or overrides that can't be used.
        """
        own = [as_override("data.cache", self.cache), as_override("run.folder", self.folder)]
        return load_settings(TrainingSettings, self.configs(variant), [*self.overrides, *own])


def choose(text: str | None) -> list[Variant]:
    """Rows by the paper's numbers or by name, ``2,5,without_mask``; all for None, in the paper's order.

    A path adds the user's own rows: a YAML file whose settings go on top of the base, or a folder of such
    files; a folder of ``train/configs`` may be given by its name, such as ``readings``.

    Raises:
        ConfigError: no such row (the message lists the known ones), or two of the same name.
    """
    if text is None:
        return list(VARIANTS.values())
    numbered = {str(each.number): each for each in VARIANTS.values() if each.number is not None}
    chosen: dict[str, Variant] = {}
    for word in map(str.strip, text.split(",")):
        key = word.removeprefix("#")
        found = VARIANTS.get(key) or numbered.get(key)
        if found is not None:
            chosen[found.name] = found
            continue
        rows = _own_rows(word)
        if not rows:
            known = (f"{number} ({each.name})" for number, each in numbered.items())
            unnumbered = (each.name for each in VARIANTS.values() if each.number is None)
            raise ConfigError(
                f"`rows` {word!r}: no such row, and no YAML file or folder of them; rows are "
                f"{', '.join([*known, *unnumbered])}"
            )
        for own in rows:
            if own.name in VARIANTS or chosen.setdefault(own.name, own) != own:
                raise ConfigError(
                    f"`rows` {word!r}: there is another row {own.name}; rename {own.fragment.name}, as runs "
                    "are distinguished by their rows' names"
                )
    return list(chosen.values())


def _own_rows(word: str) -> list[Variant]:
    """The rows of a YAML file, or of all in a folder by name; empty for anything else."""
    path, shipped = Path(word), FRAGMENTS.parent / word
    if path.suffix in (".yaml", ".yml"):
        files = [path] if path.is_file() else []
    else:
        files = sorted((path if path.is_dir() else shipped).glob("*.yaml"))
    return [Variant(file.stem, file.stem.replace("_", " "), file=file.resolve()) for file in files]


def every(variants: Iterable[Variant], seeds: Sequence[int]) -> tuple[AblationRun, ...]:
    """All rows with the first seed, then all with the next, so that each row has a result early."""
    rows = list(variants)
    return tuple(AblationRun(variant, seed) for seed in seeds for variant in rows)


def compared(settings: TrainingSettings) -> dict[str, Any]:
    """Settings that all runs of an ablation must share, apart from a row's own changes, flat."""
    return {
        name: value
        for name, value in flat(settings.model_dump(mode="json")).items()
        if not name.startswith(FREE)
    }


def changes(settings: TrainingSettings, base: TrainingSettings) -> dict[str, Any]:
    """The settings in which a row differs from its base, flat."""
    before = compared(base)
    return {name: value for name, value in compared(settings).items() if before[name] != value}
