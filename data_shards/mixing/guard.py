"""Train images that are somebody's test images: found, counted, refused or left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from maris_fast.data_shards.looks import LOOK_ALIKE, Twin, looks_of, twins
from maris_fast.data_shards.mixing.mixed_sets import Identity, Part
from maris_fast.data_shards.records import TRAIN, Frozen, ImageRecord, SplitCounts, count
from maris_fast.errors import InputError

Ground = Literal["name", "pixels", "looks"]
"""By what an image was met: its name, path or numbers; the same pixels; or it looks alike."""

_ARE: dict[Ground, str] = {
    "name": "are in",
    "pixels": "are copies, pixel by pixel, of images in",
    "looks": "look like images in",
}


class Leak(Frozen):
    """Images of a train split that are in a held-out split."""

    train: str
    held_out: str
    images: int
    sentences: int
    example: str
    own: bool = Field(description="both splits are of the same data set")
    by: Ground = "name"

    def __str__(self) -> str:
        return (
            f"{self.train}: {self.images:,} images with {self.sentences:,} sentences {_ARE[self.by]} "
            f"{self.held_out} (such as {self.example})"
        )


class LookAlike(Frozen):
    """A train image and the held-out one that it looks most like."""

    train: str
    held_out: str
    train_image: str = Field(description="absolute path")
    held_out_image: str = Field(description="absolute path")
    distance: int = Field(description="bits of 256 in which their perceptual hashes differ")


class MixSummary(Frozen):
    """What ``mix.json`` keeps of how a data set was mixed."""

    datasets: tuple[str, ...]
    held_out: tuple[str, ...]
    leaks: tuple[Leak, ...] = Field(description="all that were found; an image may be in several")
    removed: SplitCounts = Field(description="from the train splits; an image of two of them counts twice")
    kept: SplitCounts = Field(description="though it is held out, as an option allowed")
    by_coco_id: int = Field(description="images of the train splits whose number in COCO is known")
    by_path: int = Field(description="those that only their path tells apart, besides their content")
    by_content: int = Field(default=0, description="images of the train splits whose pixels were compared")
    not_looked_at: int = Field(default=0, description="files, held-out ones too, that could not be read")
    look_alikes: tuple[LookAlike, ...] = ()


@dataclass(frozen=True)
class Allowed:
    """What may stay in the train split, or be left out of it."""

    remove: bool = False
    keep_own: bool = False
    keep_look_alikes: bool = False


@dataclass
class _Found:
    images: int = 0
    sentences: int = 0
    example: str = ""


_Split = tuple[int, str]
"""A part's number, and a split of it."""


class Guard:
    """Knows every held-out image, and what became of the train images that are among them."""

    def __init__(self, parts: Sequence[Part], others: Sequence[Part]) -> None:
        self._held: dict[Identity, set[_Split]] = defaultdict(set)
        self._parts: Mapping[int, Part] = {part.number: part for part in (*parts, *others)}
        self._held_paths: dict[Path, None] = {}
        for part in self._parts.values():
            for split in part.held_out:
                for record in part.records(split):
                    self._held_paths[part.real_path(record)] = None
                    for identity in part.identities(record):
                        self._held[identity].add((part.number, split))
        self._train = [(part, record) for part in parts for record in part.records(TRAIN)]
        self._pixels: dict[Path, bytes] = {}
        self._twins: dict[Path, list[Twin]] = {}
        self._unseen: dict[Path, str] = {}
        self._found: dict[tuple[int, int, str, Ground], _Found] = defaultdict(_Found)
        self._look_alikes: list[LookAlike] = []
        self._removed: list[ImageRecord] = []
        self._kept: list[ImageRecord] = []
        self._by_coco_id: set[Identity] = set()
        self._by_path: set[Identity] = set()

    def look(self, most: int = LOOK_ALIKE, progress: Callable[[int, int], None] | None = None) -> None:
        """Compares the content of all images, so that copies under other names are met too.

        Args:
            most: bits of 256 in which two images that look alike may differ.
            progress: called with files looked at and how many there are.
        """
        train = dict.fromkeys(part.real_path(record) for part, record in self._train)
        seen, self._unseen = looks_of([*self._held_paths, *train], progress)
        held = {path: seen[path] for path in self._held_paths if path in seen}
        for path, look in held.items():
            self._held["pixels", look.pixels] |= self._held["path", path]
        self._pixels = {path: seen[path].pixels for path in train if path in seen}
        self._twins = twins({path: seen[path] for path in self._pixels}, held, most)

    def kept(self, allowed: Allowed) -> Iterator[tuple[Part, ImageRecord]]:
        """The train splits' records that may stay; all are looked at and counted."""
        for part, record in self._train:
            identities = part.identities(record)
            in_coco = next((one for one in identities if one[0] == "coco"), None)
            (self._by_coco_id if in_coco else self._by_path).add(in_coco or part.file_key(record))
            met = self._met(part, record, identities)
            for (number, split), ground in met.items():
                found = self._found[part.number, number, split, ground]
                found.images += 1
                found.sentences += len(record.expressions)
                found.example = found.example or record.image
            if not met:
                yield part, record
            elif all(
                (allowed.keep_own and number == part.number)
                or (allowed.keep_look_alikes and ground == "looks")
                for (number, _), ground in met.items()
            ):
                self._kept.append(record)
                yield part, record
            else:
                self._removed.append(record)

    def _met(self, part: Part, record: ImageRecord, identities: set[Identity]) -> dict[_Split, Ground]:
        """The held-out splits that have the image, each by its surest ground."""
        path = part.real_path(record)
        met: dict[_Split, Ground] = {}
        for twin in self._twins.get(path, ()):
            for number, split in self._held["path", twin.path]:
                met.setdefault((number, split), "looks")
        pixels = self._held.get(("pixels", self._pixels.get(path)), set())
        met.update(dict.fromkeys(pixels, "pixels"))
        named = set().union(*(self._held.get(identity, ()) for identity in identities))
        met.update(dict.fromkeys(named, "name"))
        if "looks" in met.values():
            self._add_look_alikes(part, path, met)
        return met

    def _add_look_alikes(self, part: Part, path: Path, met: Mapping[_Split, Ground]) -> None:
        """The nearest of each split that has no surer ground."""
        for (number, split), ground in met.items():
            if ground == "looks":
                nearest = next(t for t in self._twins[path] if (number, split) in self._held["path", t.path])
                self._look_alikes.append(
                    LookAlike(
                        train=part.label(TRAIN),
                        held_out=self._parts[number].label(split),
                        train_image=str(path),
                        held_out_image=str(nearest.path),
                        distance=nearest.distance,
                    )
                )

    @property
    def look_alikes(self) -> list[LookAlike]:
        """What is suspected, the surest first; to be looked at."""
        return sorted(self._look_alikes, key=lambda one: (one.distance, one.train_image))

    def require_allowed(self, allowed: Allowed, look_at: str) -> None:
        """
        Args:
            look_at: where the pairs that look alike can be seen.

        Raises:
            InputError: images would be left out that nobody allowed to be.
        """
        if allowed.remove or not self._removed:
            return
        leaks = self._leaks()
        lines = ["train images are test images, nothing was written:"]
        lines += [f"  {leak}" for leak in leaks]
        lines.append(
            f"`remove_leaks` leaves out these {len(self._removed):,} images of the train splits; a model's "
            "score on an image that it was trained on is no test"
        )
        if not allowed.keep_own and any(leak.own for leak in leaks):
            lines.append(
                "`keep_own_leaks` keeps images that are held out by their own data set alone: G-Ref google "
                "shares them by design, as its authors divided the objects and not the images"
            )
        if not allowed.keep_look_alikes and any(leak.by == "looks" for leak in leaks):
            lines.append(
                f"images that look alike are suspected only: {look_at}; `keep_look_alikes` keeps them, and "
                "`look_alike` says how alike they must be"
            )
        raise InputError("\n".join(lines))

    def summary(self, parts: Sequence[Part], others: Sequence[Part]) -> MixSummary:
        return MixSummary(
            datasets=tuple(str(part.dataset.folder.absolute()) for part in parts),
            held_out=tuple(str(part.dataset.folder.absolute()) for part in others),
            leaks=tuple(self._leaks()),
            removed=count(self._removed),
            kept=count(self._kept),
            by_coco_id=len(self._by_coco_id),
            by_path=len(self._by_path),
            by_content=len(self._pixels),
            not_looked_at=len(self._unseen),
            look_alikes=tuple(self.look_alikes),
        )

    @property
    def why_not_looked_at(self) -> str | None:
        """What is wrong with the first file whose content could not be compared."""
        return next(iter(self._unseen.values()), None)

    def _leaks(self) -> list[Leak]:
        return [
            Leak(
                train=self._parts[train].label(TRAIN),
                held_out=self._parts[number].label(split),
                images=found.images,
                sentences=found.sentences,
                example=found.example,
                own=train == number,
                by=ground,
            )
            for (train, number, split, ground), found in sorted(self._found.items())
        ]
