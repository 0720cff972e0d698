"""``ablation.json``: what was trained and scored, and under which conditions.

Replaced atomically after each run, so that an ablation can be resumed wherever it was stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from maris_fast.ablation.runs import Ablation, AblationRun, changes, compared
from maris_fast.config import TrainingSettings
from maris_fast.config.loading import PACKAGE
from maris_fast.data_shards.cache import CacheManifest
from maris_fast.errors import ConfigError, InputError
from maris_fast.model.parameters import parameter_counts
from maris_fast.system.files import replace_text
from maris_fast.system.locks import SUFFIX, OccupiedError, living_owner, owned_folder

ABLATION = "ablation.json"
FORMAT_VERSION = 1
# The folder of `train/configs`, with the symbolic link of a clone resolved.
ROOT = (PACKAGE / "train").resolve().parent
DONE, FAILED = "done", "failed"


@dataclass
class Record:
    """The file's content.

    Attributes:
        conditions: cache, its data set, split, and every setting that all rows share.
        variants: by name, the parameters and the settings that a row changes.
        runs: by folder name: row, seed, state, and for a finished one its scores (0 to 1), the step of its
            weights, the seconds that it trained, and its environment, an index into ``environments``.
        environments: device, versions and commit; a single entry if they are the same for all runs.
    """

    conditions: dict[str, Any]
    variants: dict[str, dict[str, Any]]
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    environments: list[dict[str, Any]] = field(default_factory=list)
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    format_version: int = FORMAT_VERSION

    @classmethod
    def of(cls, ablation: Ablation, manifest: CacheManifest) -> Record:
        """Record of an ablation without any runs yet.

        Raises:
            InputError: the cache lacks a split.
            ConfigError: a row's settings can't be used.
        """
        base = ablation.settings(None)
        manifest.of_split(base.data.train_split, ablation.cache)
        counts = manifest.of_split(ablation.split, ablation.cache)
        conditions = {
            "cache": str(ablation.cache),
            "cache_sha256": manifest.sha256,
            "data": {"name": manifest.dataset.name, "split_by": manifest.dataset.split_by},
            "split": ablation.split,
            "images": counts.images,
            "expressions": counts.expressions,
            "train_images": manifest.splits[base.data.train_split].images,
            "random_encoders": manifest.encoders.random,
            "base": [_in_package(file) for file in ablation.base],
            "overrides": list(ablation.overrides),
            "settings": compared(base),
        }
        variants = {}
        for variant in ablation.variants:
            settings = ablation.settings(variant)
            variants[variant.name] = {
                "number": variant.number,
                "title": variant.title,
                "parameters": parameter_counts(
                    settings.model, manifest.channels, manifest.text_channels
                ).total,
                "changes": changes(settings, base),
            }
        return cls(conditions, variants)

    @classmethod
    def read(cls, folder: Path, name: str = ABLATION) -> Record:
        """Read the record in a folder.

        Raises:
            InputError: no ablation, or one of another format version.
        """
        file = folder / name
        try:
            content = json.loads(file.read_text())
            version = content.get("format_version")
            if version != FORMAT_VERSION:
                raise InputError(f"{file} has format version {version}, this program reads {FORMAT_VERSION}")
            return cls(**content)
        except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{file} holds no ablation ({error}); `maris-fast ablate` writes one") from error

    def save(self, folder: Path) -> None:
        replace_text(folder / ABLATION, [json.dumps(asdict(self), indent=1), "\n"])

    def went_on_from(self, before: Record) -> Record:
        """This ablation's record with the runs of ``before``, to resume from.

        Raises:
            ConfigError: the two are not comparable; each setting that differs is named.
        """
        differing = _differences("", {**_defaults(), **_fixed(before.conditions)}, _fixed(self.conditions))
        for name in before.variants.keys() & self.variants.keys():
            old, new = before.variants[name]["changes"], self.variants[name]["changes"]
            differing += _differences(f"{name}: ", old, new)
        if differing:
            raise ConfigError(
                "the rows done so far were made with other settings, and rows are compared with each other:\n"
                + "".join(f"  {line}\n" for line in differing)
                + "set them as they were, or name a new folder with `out`"
            )
        return Record(
            self.conditions,
            {**before.variants, **self.variants},
            before.runs,
            before.environments,
            before.started,
        )

    def is_done(self, run: AblationRun) -> bool:
        return self.runs.get(run.name, {}).get("state") == DONE

    def failed(self) -> dict[str, str]:
        """Error messages of failed runs, by run name."""
        return {name: run["error"] for name, run in self.runs.items() if run["state"] == FAILED}

    def finish(self, run: AblationRun, measured: dict[str, Any], environment: dict[str, Any]) -> None:
        """Record a run as done, with its scores and its environment."""
        if environment not in self.environments:
            self.environments.append(environment)
        place = self.environments.index(environment)
        self._put(run, {"state": DONE, **measured, "environment": place})

    def fail(self, run: AblationRun, error: str) -> None:
        self._put(run, {"state": FAILED, "error": error})

    def _put(self, run: AblationRun, content: dict[str, Any]) -> None:
        self.runs[run.name] = {"row": run.variant.name, "seed": run.seed, **content}

    def scores(self, row: str) -> dict[int, dict[str, Any]]:
        """A row's scores by seed."""
        done = (run for run in self.runs.values() if run["row"] == row and run["state"] == DONE)
        return {run["seed"]: run["scores"] for run in sorted(done, key=lambda run: run["seed"])}


@contextmanager
def alone_in(folder: Path, beside: Sequence[str] = ()) -> Iterator[None]:
    """Lock ``folder`` against other processes until the block ends.

    Args:
        folder: new, empty but for the names ``beside``, or an ablation's.

    Raises:
        ConfigError: another process works in it, it holds other files, or it cannot be written.
    """
    with ExitStack() as until_the_end:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            others = {path.name for path in folder.iterdir() if not path.name.startswith(".")} - set(beside)
            if others and not (folder / ABLATION).is_file():
                raise ConfigError(f"{folder} is not empty and holds no ablation; name another with `out`")
            until_the_end.enter_context(owned_folder(folder))
            _require_no_run_left(folder)
        except OccupiedError as error:
            raise ConfigError(
                f"{error}; wait for its end, or name another folder with `out`; {error.by_hand}"
            ) from error
        except OSError as error:
            raise ConfigError(f"{folder} cannot be written: {error}; name another with `out`") from error
        yield


def _require_no_run_left(folder: Path) -> None:
    """Reject the folder while runs of a killed ablation are alive; they notice, and end after a step."""
    for lock in folder.glob(f"*/{SUFFIX}"):
        if (owner := living_owner(lock)) is not None:
            raise OccupiedError(lock.parent, lock, owner)


def _in_package(file: Path) -> str:
    """A path of the package relative to it, so that it is valid on any machine; others are absolute."""
    file = file.resolve()
    return str(file.relative_to(ROOT) if file.is_relative_to(ROOT) else file)


def _fixed(conditions: dict[str, Any]) -> dict[str, Any]:
    """Conditions that must not change between starts; locations of files may."""
    settings: dict[str, Any] = conditions["settings"]
    told = {"the cache (SHA-256)": conditions["cache_sha256"], "the split": conditions["split"]}
    return {**told, **settings}


def _defaults() -> dict[str, Any]:
    """Settings by default, which a record from before a setting existed was made with."""
    return compared(TrainingSettings.model_validate({"data": {"cache": "-"}, "run": {"folder": "-"}}))


def _differences(prefix: str, before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    names = [*before, *(name for name in now if name not in before)]
    return [
        f"{prefix}{name} was {before.get(name)}, is now {now.get(name)}"
        for name in names
        if before.get(name) != now.get(name)
    ]
