"""Train images that are test images of any of the data sets: found, counted, refused or removed."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import numpy as np
from pydantic import Field

from maris_fast.data_shards.looks import LOOK_ALIKE, Twin, looks_of, twins
from maris_fast.data_shards.mixing.mixed_sets import Identity, Part, Placed, path_key
from maris_fast.data_shards.records import TRAIN, Frozen, ImageRecord, SplitCounts, count
from maris_fast.errors import InputError

Ground = Literal["name", "pixels", "looks"]
"""How an image was recognised: by its name, path or ids; by the same pixels; or because it looks alike."""

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
    """What ``mix.json`` records about how a data set was mixed."""

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
    """What may stay in the train split, or be removed from it."""

    remove: bool = False
    keep_own: bool = False
    keep_look_alikes: bool = False


@dataclass
class _Counts:
    refs: int = 0
    sentences: int = 0
    images: int = 0

    def add(self, record: ImageRecord) -> None:
        one = count([record])
        self.refs += one.refs
        self.sentences += one.sentences
        self.images += one.images

    def counts(self) -> SplitCounts:
        return SplitCounts(refs=self.refs, sentences=self.sentences, images=self.images)


@dataclass
class _Found:
    images: int = 0
    sentences: int = 0
    example: str = ""


_Split = tuple[int, str]
"""A part's number, and one of its splits."""


class Guard:
    """Knows every held-out image, and what happened to the train images that are among them."""

    def __init__(self, parts: Sequence[Part], others: Sequence[Part]) -> None:
        self._train = parts
        self._parts: Mapping[int, Part] = {part.number: part for part in (*parts, *others)}
        self._held: dict[Identity, frozenset[_Split]] = {}
        self._splits: dict[frozenset[_Split], frozenset[_Split]] = {}
        self._held_paths: dict[bytes, str] = {}
        for part in self._parts.values():
            for split in part.held_out:
                for _, record, _, _ in part.records(split):
                    path = part.real_path(record)
                    self._held_paths.setdefault(path_key(path), path)
                    for identity in part.identities(record):
                        self._hold(identity, {(part.number, split)})
        self._pixels: dict[bytes, bytes] = {}
        self._twins: dict[str, list[Twin[str]]] = {}
        self._unseen: dict[str, str] = {}
        self._found: dict[tuple[int, int, str, Ground], _Found] = defaultdict(_Found)
        self._look_alikes: list[LookAlike] = []
        self._removed, self._kept = _Counts(), _Counts()
        self._by_coco_id, self._by_path = array("q"), array("q")
        """Hashes of the train images that are distinguished by COCO id, and by path."""

    def _hold(self, identity: Identity, splits: Iterable[_Split]) -> None:
        """Add splits of an identity; equal sets share one object, as most images are in one split."""
        both = self._held.get(identity, frozenset()) | frozenset(splits)
        self._held[identity] = self._splits.setdefault(both, both)

    def look(self, most: int = LOOK_ALIKE, progress: Callable[[int, int], None] | None = None) -> None:
        """Compare the content of all images, so that copies under other names are found too.

        Args:
            most: how many of 256 bits may differ between two images that look alike.
            progress: called with the number of files examined and the total.
        """
        train = dict.fromkeys(
            part.real_path(record) for part in self._train for record in part.dataset.records(TRAIN)
        )
        seen, self._unseen = looks_of(chain(self._held_paths.values(), train), progress)
        held = {path: seen[path] for path in self._held_paths.values() if path in seen}
        for path, look in held.items():
            self._hold(look.pixels, self._held[path_key(path)])
        ours = {path: seen[path] for path in train if path in seen}
        self._pixels = {path_key(path): look.pixels for path, look in ours.items()}
        self._twins = twins(ours, held, most)

    def kept(self, allowed: Allowed) -> Iterator[Placed]:
        """The train splits' records that may stay; all records are checked and counted."""
        for placed in chain.from_iterable(part.records(TRAIN) for part in self._train):
            part, record, _, _ = placed
            identities = part.identities(record)
            in_coco = next((one for one in identities if isinstance(one, tuple) and one[0] == "coco"), None)
            (self._by_coco_id if in_coco else self._by_path).append(hash(in_coco or part.file_key(record)))
            met = self._met(part, record, identities)
            for (number, split), ground in met.items():
                found = self._found[part.number, number, split, ground]
                found.images += 1
                found.sentences += len(record.expressions)
                found.example = found.example or record.image
            if not met:
                yield placed
            elif all(
                (allowed.keep_own and number == part.number)
                or (allowed.keep_look_alikes and ground == "looks")
                for (number, _), ground in met.items()
            ):
                self._kept.add(record)
                yield placed
            else:
                self._removed.add(record)

    def _met(self, part: Part, record: ImageRecord, identities: set[Identity]) -> dict[_Split, Ground]:
        """The held-out splits that contain the image, each with its most certain ground."""
        path = part.real_path(record)
        met: dict[_Split, Ground] = {}
        for twin in self._twins.get(path, ()):
            for number, split in self._held[path_key(twin.path)]:
                met.setdefault((number, split), "looks")
        pixels = self._pixels.get(path_key(path))
        met.update(dict.fromkeys(self._held.get(pixels, ()) if pixels else (), "pixels"))
        named = set().union(*(self._held.get(identity, ()) for identity in identities))
        met.update(dict.fromkeys(named, "name"))
        if "looks" in met.values():
            self._add_look_alikes(part, path, met)
        return met

    def _add_look_alikes(self, part: Part, path: str, met: Mapping[_Split, Ground]) -> None:
        """Add the nearest look-alike of each split that has no more certain ground."""
        for (number, split), ground in met.items():
            if ground == "looks":
                nearest = next(
                    t for t in self._twins[path] if (number, split) in self._held[path_key(t.path)]
                )
                self._look_alikes.append(
                    LookAlike(
                        train=part.label(TRAIN),
                        held_out=self._parts[number].label(split),
                        train_image=path,
                        held_out_image=nearest.path,
                        distance=nearest.distance,
                    )
                )

    @property
    def look_alikes(self) -> list[LookAlike]:
        """Suspected pairs, the most certain first, for a person to check."""
        return sorted(self._look_alikes, key=lambda one: (one.distance, one.train_image))

    def require_allowed(self, allowed: Allowed, look_at: str) -> None:
        """
        Args:
            look_at: where the pairs that look alike can be seen.

        Raises:
            InputError: images would be removed although ``allowed`` does not permit it.
        """
        if allowed.remove or not self._removed.images:
            return
        leaks = self._leaks()
        lines = ["train images are test images, nothing was written:"]
        lines += [f"  {leak}" for leak in leaks]
        lines.append(
            f"`remove_leaks` leaves out these {self._removed.images:,} images of the train splits; a model's "
            "score on an image that it was trained on tests nothing"
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
            removed=self._removed.counts(),
            kept=self._kept.counts(),
            by_coco_id=len(np.unique(self._by_coco_id)),
            by_path=len(np.unique(self._by_path)),
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
