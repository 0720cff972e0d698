"""``predictions.jsonl``: predictions, appended image by image, from which a stopped command resumes.

One line per sentence, with masks at the size at which the image is shown::

    {"image": "kitchen/1.jpg", "sentence": "the red mug", "score": 0.83,
     "prediction": {"size": [480, 640], "counts": "..."}, "mask": "masks/kitchen/1.jpg/1.png"}
"""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from maris_fast.data_shards.plain_json import checked_json
from maris_fast.errors import InputError, first_of
from maris_fast.predicting.requests import Asked
from maris_fast.rle import Rle, require_whole
from maris_fast.system.files import replace_text
from maris_fast.system.locks import is_lock
from maris_fast.system.new_folder import require_no_file_at

PREDICTIONS, SETTINGS, LEFT_OUT = "predictions.jsonl", "predict.json", "left-out.jsonl"
MASKS, COCO, LABELME = "masks", "predictions.coco.json", "labelme"
WRITTEN = (PREDICTIONS, LEFT_OUT, MASKS, COCO, LABELME, SETTINGS)
"""Names in the folder; the settings last, so that an interrupted removal can be repeated."""


class Settings(BaseModel):
    """What all predictions of a folder share."""

    model_config = ConfigDict(frozen=True)

    format: str
    images: str = Field(description="absolute path of the images' folder")
    weights_sha256: str
    full_names: bool = Field(default=False, description="labelme's files keep the image's suffix: 1.jpg.json")


class PredictedMask(BaseModel):
    """A line of ``predictions.jsonl``."""

    image: str
    sentence: str
    sent_id: int | None = None
    score: float = Field(
        description="mean probability of the mask's pixels; of an empty mask, the largest of the image's"
    )
    prediction: Rle
    mask: str | None = Field(default=None, description="path of the PNG, below the folder")

    @property
    def asked(self) -> Asked:
        return Asked(self.sentence, self.sent_id)


def holds_predictions(out: Path) -> bool:
    """Whether a folder has predictions to resume or to replace; False: it is new or empty.

    Raises:
        InputError: it holds something else.
    """
    require_no_file_at(out)
    if not out.is_dir() or all(is_lock(path) for path in out.iterdir()):
        return False
    if not (out / SETTINGS).is_file():
        raise InputError(
            f"output folder {out} is not empty and holds no predictions (no {SETTINGS}); name a new or an "
            "empty folder with `out`"
        )
    return True


def settings_of(out: Path, settings: Settings, *, overwrite: bool) -> Settings | None:
    """Settings of the folder's predictions to resume from; None: there are none, or ``overwrite``.

    Raises:
        InputError: it holds something else or, without ``overwrite``, predictions of other settings.
    """
    if not holds_predictions(out) or overwrite:
        return None
    file = out / SETTINGS
    try:
        before: Settings = checked_json(Settings, file.read_bytes())
    except ValueError as error:
        raise InputError(f"{file} is damaged: {first_of(error)}; name another folder with `out`") from error
    for name, value in settings.model_dump().items():
        if name == "full_names" and before.full_names:
            continue  # full names suit any images
        if (was := getattr(before, name)) != value:
            raise InputError(
                f"{out} has predictions of other settings: {name} was {was}, now {value}; name another "
                "folder with `out`, or replace them with `overwrite`"
            )
    return before


class Record:
    """The predictions of a folder; one process writes it.

    Args:
        out: an existing folder.

    Raises:
        InputError: a complete line is not a prediction.
    """

    def __init__(self, out: Path) -> None:
        self.path = out / PREDICTIONS
        self.done: dict[str, list[Asked]] = defaultdict(list)
        self._places: dict[str, list[int]] = defaultdict(list)
        self._end = 0
        if self.path.exists():
            for line, place, end in self._read():
                self._know(line, place, end)

    def lines(self) -> Iterator[PredictedMask]:
        return (line for line, _, _ in self._read())

    def lines_of(self, image: str) -> list[PredictedMask]:
        """The predictions of an image, whose masks can be decoded.

        Raises:
            InputError: the file was changed by hand.
        """
        if image not in self._places:
            return []
        found = []
        with self.path.open("rb") as file:
            for place in self._places[image]:
                file.seek(place)
                found.append(self._parsed(file.readline(), place, whole=True))
        return found

    def append(self, lines: Sequence[PredictedMask]) -> None:
        """Append all lines or none, overwriting an incomplete last line that a killed process left.

        Raises:
            OSError: it cannot be written.
        """
        coded = [f"{line.model_dump_json(exclude_none=True)}\n".encode() for line in lines]
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.truncate(descriptor, self._end)
            os.lseek(descriptor, self._end, os.SEEK_SET)
            try:
                _write(descriptor, b"".join(coded))
            except BaseException:
                os.truncate(descriptor, self._end)
                raise
        finally:
            os.close(descriptor)
        for line, one in zip(lines, coded, strict=True):
            self._know(line, self._end, self._end + len(one))

    def _know(self, line: PredictedMask, place: int, end: int) -> None:
        self.done[line.image].append(line.asked)
        self._places[line.image].append(place)
        self._end = end

    def _read(self) -> Iterator[tuple[PredictedMask, int, int]]:
        """Lines, and where they begin and end; an incomplete last line is skipped."""
        place = 0
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    return
                yield self._parsed(line, place), place, place + len(line)
                place += len(line)

    def _parsed(self, line: bytes, place: int, *, whole: bool = False) -> PredictedMask:
        try:
            found: PredictedMask = checked_json(PredictedMask, line)
            if whole:
                require_whole(found.prediction.counts, *found.prediction.size)
        except ValueError as error:
            raise InputError(
                f"{self.path}, byte {place:,}: no prediction: {first_of(error)}; remove that line, and the "
                "same command predicts it again"
            ) from error
        return found


def begin(out: Path, settings: Settings, *, resume: bool) -> None:
    """Without ``resume``, remove what an earlier command has written, and write the settings."""
    if not resume:
        for name in WRITTEN:
            path = out / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        replace_text(out / SETTINGS, [settings.model_dump_json(indent=1), "\n"])


def _write(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]
