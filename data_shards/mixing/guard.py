"""Train images that are somebody's test images: found, counted, refused or left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import Field

from maris_fast.data_shards.mixing.parts import Identity, Part
from maris_fast.data_shards.records import TRAIN, Frozen, ImageRecord, SplitCounts, count
from maris_fast.errors import InputError


class Leak(Frozen):
    """Images of a train split that are in a held-out split."""

    train: str
    held_out: str
    images: int
    sentences: int
    example: str
    own: bool = Field(description="both splits are of the same data set")

    def __str__(self) -> str:
        return (
            f"{self.train}: {self.images:,} images with {self.sentences:,} sentences are in {self.held_out} "
            f"(such as {self.example})"
        )


class MixSummary(Frozen):
    """What ``mix.json`` keeps of how a data set was mixed."""

    datasets: tuple[str, ...]
    held_out: tuple[str, ...]
    leaks: tuple[Leak, ...] = Field(description="all that were found; an image may be in several")
    removed: SplitCounts = Field(description="from the train splits; an image of two of them counts twice")
    kept: SplitCounts = Field(description="though the same data set holds the images out too")
    by_coco_id: int = Field(description="images of the train splits whose number in COCO is known")
    by_path: int = Field(description="those that only their path tells apart")


@dataclass
class _Found:
    images: int = 0
    sentences: int = 0
    example: str = ""


class Guard:
    """Knows every held-out image, and what became of the train images that are among them."""

    def __init__(self, parts: Sequence[Part], others: Sequence[Part]) -> None:
        self._held: dict[Identity, set[tuple[int, str]]] = defaultdict(set)
        self._parts: Mapping[int, Part] = {part.number: part for part in (*parts, *others)}
        for part in self._parts.values():
            for split in part.held_out:
                for record in part.records(split):
                    for identity in part.identities(record):
                        self._held[identity].add((part.number, split))
        self._found: dict[tuple[int, int, str], _Found] = defaultdict(_Found)
        self._removed: list[ImageRecord] = []
        self._kept: list[ImageRecord] = []
        self._by_coco_id: set[Identity] = set()
        self._by_path: set[Identity] = set()

    def kept(self, parts: Sequence[Part], *, keep_own: bool) -> Iterator[tuple[Part, ImageRecord]]:
        """The train splits' records that may stay; all are looked at and counted."""
        for part in parts:
            for record in part.records(TRAIN):
                identities = part.identities(record)
                in_coco = next((one for one in identities if one[0] == "coco"), None)
                (self._by_coco_id if in_coco else self._by_path).add(in_coco or part.file_key(record))
                met = set().union(*(self._held.get(identity, ()) for identity in identities))
                for number, split in met:
                    found = self._found[part.number, number, split]
                    found.images += 1
                    found.sentences += len(record.expressions)
                    found.example = found.example or record.image
                if not met:
                    yield part, record
                elif keep_own and all(number == part.number for number, _ in met):
                    self._kept.append(record)
                    yield part, record
                else:
                    self._removed.append(record)

    def require_allowed(self, *, remove: bool, keep_own: bool) -> None:
        """
        Raises:
            InputError: images would be left out that nobody allowed to be.
        """
        if remove or not self._removed:
            return
        leaks = self._leaks()
        lines = ["train images are test images, nothing was written:"]
        lines += [f"  {leak}" for leak in leaks]
        lines.append(
            f"--remove-leaks leaves out these {len(self._removed):,} images of the train splits; a model's "
            "score on an image that it was trained on is no test"
        )
        if not keep_own and any(leak.own for leak in leaks):
            lines.append(
                "--keep-own-leaks keeps images that are held out by their own data set alone: G-Ref google "
                "shares them by design, as its authors divided the objects and not the images"
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
        )

    def _leaks(self) -> list[Leak]:
        return [
            Leak(
                train=self._parts[train].label(TRAIN),
                held_out=self._parts[number].label(split),
                images=found.images,
                sentences=found.sentences,
                example=found.example,
                own=train == number,
            )
            for (train, number, split), found in sorted(self._found.items())
        ]
