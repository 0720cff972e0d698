"""Masks of many photographs, image by image, for ``maris-fast predict-many``."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from maris_fast.data_shards.importers.left_out import Fault
from maris_fast.data_shards.importers.problems import Problems
from maris_fast.errors import InputError, MemoryShortageError
from maris_fast.images import load_image
from maris_fast.predicting.formats import Format, format_of, label_file
from maris_fast.predicting.record import (
    LEFT_OUT,
    SETTINGS,
    PredictedMask,
    Record,
    Settings,
    begin,
    settings_of,
)
from maris_fast.predicting.requests import IMAGES, Asked, Requests, usable_of
from maris_fast.prediction import EncodedImage, Predictor, score_of
from maris_fast.rle import Rle
from maris_fast.system.devices import fitting
from maris_fast.system.files import replace_text, writing
from maris_fast.system.locks import OccupiedError, owned_folder

Counting = Callable[[str, int, int], AbstractContextManager[Callable[[], None]]]
"""Takes what is counted, the total and the number done; yields a function to call after each."""


@dataclass(frozen=True)
class Outcome:
    """Contents of a folder after the command; ``stopped``: by Ctrl-C, before all was done."""

    images: int
    of: int
    masks: int
    empty: int
    faults: Sequence[Fault]
    stopped: bool = False


def predict_many(
    load: Callable[[], Predictor],
    weights_sha256: str,
    requests: Requests,
    out: Path,
    file_format: str,
    counting: Counting,
    *,
    leave_out_bad: bool = False,
    overwrite: bool = False,
) -> Outcome:
    """Predict what ``out`` does not have yet; after Ctrl-C, ``out`` has the finished predictions.

    Args:
        load: gives the predictor of these weights; called once ``out`` is found to be usable.

    Raises:
        InputError: images or sentences cannot be used, unless ``leave_out_bad`` (all of them are listed);
            the folder holds something else; the disk is full.
    """
    named = set(requests.asked)

    def settings_with(record: Record | None) -> Settings:
        images = named.union(record.done if record else ())
        return Settings(
            format=file_format,
            images=str(requests.images.resolve()),
            weights_sha256=weights_sha256,
            full_names=file_format == "labelme" and _share_a_stem(images),
        )

    record = _record_of(out, overwrite=overwrite)
    settings_of(out, settings_with(record), overwrite=overwrite)
    predictor = load()
    with counting("checked", len(requests.asked), 0) as advance:
        requests = usable_of(requests, record.done if record else (), predictor, advance)
    if not leave_out_bad:
        _problems(requests.faults).raise_if_any(
            "`leave_out_bad` continues without them and lists each in left-out.jsonl"
        )
    elif not requests.asked:
        _problems(requests.faults).raise_if_any("nothing is left to predict")
    with writing(out, "`out`"):
        out.mkdir(parents=True, exist_ok=True)
        try:
            with owned_folder(out):
                # Check again: another process may have predicted since.
                record = _record_of(out, overwrite=overwrite)
                settings = settings_with(record)
                before = settings_of(out, settings, overwrite=overwrite)
                begin(out, settings, resume=before is not None)
                form = format_of(out, before or settings)
                outcome = _Work(predictor, requests, record or Record(out), form).run(counting)
                _list_left_out(out, outcome.faults)
        except OccupiedError as error:
            raise InputError(f"{error}; wait for it, or name another folder with `out`") from error
    new = outcome.faults[len(requests.faults) :]
    if new and not leave_out_bad:
        lines = [
            f"{len(new)} images cannot be predicted, all others are written to {out}:",
            *_problems(new).lines(),
        ]
        raise InputError("\n".join([*lines, "replace them, and the same command predicts them"]))
    return outcome


class _Work:
    def __init__(self, predictor: Predictor, requests: Requests, record: Record, form: Format) -> None:
        self._predictor, self._requests = predictor, requests
        self._record, self._form = record, form

    def run(self, counting: Counting) -> Outcome:
        faults, stopped = list(self._requests.faults), False
        missing = {image: new for image in self._requests.asked if (new := self._missing(image))}
        total = len(self._requests.asked)
        try:
            with counting("predicted", total, total - len(missing)) as advance:
                for image, asked in missing.items():
                    try:
                        self._predict(image, asked)
                    except (InputError, MemoryShortageError) as error:
                        faults.append(Fault(IMAGES, f"{image}: {error}"))
                    advance()
        except KeyboardInterrupt:
            stopped = True
        self._form.finish(self._record)
        return self._outcome(faults, stopped)

    def _missing(self, image: str) -> list[Asked]:
        done = set(self._record.done.get(image, ()))
        return [one for one in self._requests.asked[image] if one not in done]

    def _predict(self, image: str, asked: Sequence[Asked]) -> None:
        known = self._record.lines_of(image)
        encoded = self._predictor.encode(load_image(self._requests.images / image))
        with fitting("set `device` to cpu"):
            numbered = enumerate(asked, start=len(known) + 1)
            new = [self._line(encoded, image, one, number) for number, one in numbered]
        self._form.write(known, new)
        self._record.append(new)

    def _line(self, encoded: EncodedImage, image: str, one: Asked, number: int) -> PredictedMask:
        # One by one: a mask is then bitwise the same, whichever sentences were done before.
        logits = self._predictor.logits(encoded, one.sentence)
        return PredictedMask(
            image=image,
            sentence=one.sentence,
            sent_id=one.sent_id,
            score=round(score_of(logits), 6),
            prediction=Rle.encode((logits > 0).cpu().numpy()),
            mask=self._form.mask_of(image, number),
        )

    def _outcome(self, faults: Sequence[Fault], stopped: bool) -> Outcome:
        areas = [line.prediction.area for line in self._record.lines()] if self._record.done else []
        finished = sum(not self._missing(image) for image in self._requests.asked)
        return Outcome(
            finished, len(self._requests.asked), len(areas), sum(not area for area in areas), faults, stopped
        )


def _record_of(out: Path, *, overwrite: bool) -> Record | None:
    """The predictions to resume from; None: there are none, or ``overwrite``."""
    return Record(out) if not overwrite and (out / SETTINGS).is_file() else None


def _share_a_stem(images: Collection[str]) -> bool:
    """Whether two images differ only in their suffix, such as 1.jpg and 1.png."""
    return len({label_file(image, full=False) for image in images}) < len(images)


def _problems(faults: Sequence[Fault]) -> Problems:
    problems = Problems("these images", done="predicted")
    for fault in faults:
        problems.add(*fault)
    return problems


def _list_left_out(out: Path, faults: Sequence[Fault]) -> None:
    if faults or (out / LEFT_OUT).exists():
        rows = [{"reason": fault.reason, "detail": fault.detail} for fault in faults]
        replace_text(out / LEFT_OUT, [f"{json.dumps(row)}\n" for row in rows])
