"""Requests for many photographs: JSON lines, or a folder of images and the sentences for all of them.

A line is ``{"image": "kitchen/1.jpg", "sentences": ["the red mug", "the kettle"]}``, or has one ``sentence``;
``sent_ids`` or a ``sent_id`` are copied to the predictions. Lines of the same image are merged.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, model_validator

from maris_fast.data_shards.importers.left_out import Fault
from maris_fast.data_shards.importers.paths import in_another_case, place_of
from maris_fast.data_shards.importers.sentences import sentence_of
from maris_fast.data_shards.importers.text_encoding import read_utf8
from maris_fast.data_shards.plain_json import checked_json
from maris_fast.errors import ConfigError, InputError, first_of
from maris_fast.images import NoImageError, is_named_as_image, views_of

if TYPE_CHECKING:  # it imports torch, and requests are read before that
    from maris_fast.prediction import Predictor

LINES = "lines that are not requests; expected an image and its sentence or sentences"
IMAGES = "images that cannot be used; replace them"
SENTENCES = "sentences that the text encoder does not take; change or remove them"
"""Kinds of faults."""


@dataclass(frozen=True)
class Asked:
    """A sentence, with the id that predictions of it carry."""

    sentence: str
    sent_id: int | None = None


@dataclass(frozen=True)
class Requests:
    """Sentences by image, as a path below ``images``; and the faults of other requests."""

    images: Path
    asked: dict[str, list[Asked]]
    faults: list[Fault]

    def without(self, bad: Iterable[Fault], images: set[str], sentences: set[str]) -> Requests:
        """The requests without bad images and sentences."""
        kept = {
            image: [one for one in asked if one.sentence not in sentences]
            for image, asked in self.asked.items()
            if image not in images
        }
        return Requests(
            self.images, {image: asked for image, asked in kept.items() if asked}, [*self.faults, *bad]
        )


class RequestLine(BaseModel):
    model_config = ConfigDict(extra="forbid")  # a misspelt key would otherwise be lost

    image: str
    sentence: str | None = None
    sentences: list[str] | None = None
    sent_id: int | None = None
    sent_ids: list[int] | None = None

    @model_validator(mode="after")
    def _said(self) -> RequestLine:
        if (self.sentence is None) == (not self.sentences):
            raise ValueError("expected `sentence`, or a list `sentences`, and not both")
        if self.sent_id is not None and self.sentence is None:
            raise ValueError("`sent_id` belongs to `sentence`; of `sentences` give `sent_ids`")
        if self.sent_ids is not None and len(self.sent_ids) != len(self.sentences or ()):
            raise ValueError("`sent_ids` are not as many as `sentences`")
        return self

    @property
    def asked(self) -> list[Asked]:
        if self.sentence is not None:
            return [Asked(self.sentence, self.sent_id)]
        texts = self.sentences or []
        ids: Sequence[int | None] = self.sent_ids or [None] * len(texts)
        return [Asked(text, sent_id) for text, sent_id in zip(texts, ids, strict=True)]


def read_requests(source: Path, sentences: Sequence[str], images: Path | None, out: Path) -> Requests:
    """
    Args:
        source: JSON lines, or a folder of which all images are used, those in subfolders too.
        sentences: for all images of a folder.
        images: the folder that the lines' paths are relative to; None: the folder of their file.
        out: not searched for images.

    Raises:
        ConfigError: sentences without a folder, or a folder without sentences.
        InputError: no such file or folder, or no image in it.
    """
    if not source.is_dir():
        if sentences:
            raise ConfigError(
                f"{source} is not a folder, so its lines give the sentences; remove the given ones"
            )
        root = images or source.absolute().parent
        return Requests(root, *_of_lines(source, root))
    if not sentences:
        raise ConfigError(f"{source} is a folder; add the sentences to segment in its images")
    if images is not None:
        raise ConfigError(f"{source} is the folder of images itself; remove `images`")
    faults: list[Fault] = []
    asked = _sound([Asked(text) for text in sentences], "the command line", faults)
    found: dict[str, list[Asked]] = {}
    for name in _images_in(source, out.resolve()):
        place = place_of(name, source, str(source))
        if isinstance(place, Fault):
            faults.append(place)
        else:
            found[place] = asked
    if not found and not faults:
        raise InputError(f"no image in {source}; name a folder of images, or a file of JSON lines")
    return Requests(source, found if asked else {}, faults)


def usable_of(
    requests: Requests, done: Container[str], predictor: Predictor, advance: Callable[[], None]
) -> Requests:
    """The requests without images and sentences that the encoders cannot take.

    Args:
        done: images that were predicted before.
        advance: called once per image.
    """
    faults: list[Fault] = []
    images, sentences = set(), set()
    for text in {one.sentence for asked in requests.asked.values() for one in asked}:
        try:
            predictor.text.tokenise(text)
        except InputError as error:
            faults.append(Fault(SENTENCES, str(error)))
            sentences.add(text)
    for image in requests.asked:
        advance()
        if image in done:
            continue
        path = requests.images / image
        try:
            predictor.sam.grid(*views_of(path, whole=True).shown)
        except InputError as error:
            hint = in_another_case(path) if isinstance(error, NoImageError) else ""
            told = str(error) if str(path) in str(error) else f"{path}: {error}"
            faults.append(Fault(IMAGES, f"{told}{hint}"))
            images.add(image)
    return requests.without(faults, images, sentences)


def _of_lines(file: Path, root: Path) -> tuple[dict[str, list[Asked]], list[Fault]]:
    found: dict[str, dict[Asked, None]] = {}
    faults: list[Fault] = []
    for number, text in enumerate(read_utf8(file).split(b"\n"), start=1):
        if not text.strip():
            continue
        where = f"{file.name}:{number}"
        try:
            line: RequestLine = checked_json(RequestLine, text)
        except ValueError as error:
            faults.append(Fault(LINES, f"{where}: {first_of(error)}"))
            continue
        place = place_of(line.image, root, where)
        asked = _sound(line.asked, where, faults)
        if isinstance(place, Fault):
            faults.append(place)
        elif asked:
            found.setdefault(place, {}).update(dict.fromkeys(asked))
    if not found and not faults:
        raise InputError(f"{file} has no line; expected one for each image, with its sentences")
    return {image: list(asked) for image, asked in found.items()}, faults


def _sound(asked: Sequence[Asked], where: str, faults: list[Fault]) -> list[Asked]:
    """Valid sentences, each once, as they are encoded; faults of the others are added to ``faults``."""
    sound: dict[Asked, None] = {}
    for one in asked:
        text = sentence_of(one.sentence, where)
        if isinstance(text, Fault):
            faults.append(text)
        else:
            sound[Asked(text, one.sent_id)] = None
    return list(sound)


def _images_in(folder: Path, out: Path) -> Iterator[str]:
    """Paths of images below the folder, in a fixed order, without hidden files and those in ``out``."""
    for place, folders, files in os.walk(folder):
        here = Path(place)
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and (here / name).resolve() != out
        )
        for name in sorted(files):
            if not name.startswith(".") and is_named_as_image(here / name):
                yield (here / name).relative_to(folder).as_posix()
