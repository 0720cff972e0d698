"""Check what the encoders can process, before the first image is encoded instead of hours later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from maris_fast.data_shards.cache.manifest import LeftOutSentences
from maris_fast.data_shards.cache.photographs import ImageFile, Photographs
from maris_fast.data_shards.cache.shared_plan import State, state_of
from maris_fast.data_shards.importers.left_out import BadRows, Fault, KeptImages, LeftOutRow, SourceRow
from maris_fast.data_shards.importers.options import ImportOptions
from maris_fast.data_shards.records import DatasetInfo, ImageRecord, ImportedDataset, SplitCounts
from maris_fast.encoders import SamEncoder, TextEncoder, TokenisedText
from maris_fast.errors import InputError
from maris_fast.geometry import ImageGeometry


class Usable(NamedTuple):
    """The usable part of a record, and what is known about it without encoding."""

    record: ImageRecord
    geometry: ImageGeometry
    expressions: list[TokenisedText]


class Checking:
    """Checks records one after another and keeps track of everything that cannot be used.

    Args:
        known: what is left out already, and not reported again.
    """

    def __init__(
        self, source: ImportedDataset, sam: SamEncoder, text: TextEncoder, known: LeftOutSentences
    ) -> None:
        self._source, self._sam, self._text = source, sam, text
        self._photographs = Photographs(source.info.image_root)
        self._bad = BadRows(f"the data set in {source.folder}", done="cached")
        self._counts: dict[str, SplitCounts] = {}
        self._images = KeptImages()
        self.left_out: LeftOutSentences = {split: dict(images) for split, images in known.items()}
        self.seen: dict[str, State] = {}
        """States of the images' folders, and of images that cannot be used."""
        self.unusable_afar: list[ImageFile] = []
        """Images at an address that cannot be used."""

    def look(self, record: ImageRecord) -> InputError | None:
        """What is wrong with the record's image, judged by its file's head; thread-safe.

        Raises:
            StoreError: the server that has the images fails.
        """
        return self._photographs.fault(record)

    def usable(self, split: str, record: ImageRecord, of_image: InputError | None) -> Usable | None:
        """The usable part of the record; None if there is none.

        Args:
            of_image: what ``look`` found.
        """
        known = without(record, self.left_out.get(split, {}))
        if known is None:
            return None
        path = self._photographs.path(record)
        if path is not None and (folder := str(path.parent)) not in self.seen:
            self.seen[folder] = state_of(path.parent)
        try:
            if of_image is not None:
                raise of_image
            geometry = self._sam.grid(record.height, record.width)
        except InputError as error:
            if path is not None:
                self.seen[str(path)] = state_of(path)
            elif of_image is not None:
                self.unusable_afar.append(ImageFile.of(record))
            fault = Fault("images that cannot be encoded", f"{_name(record)}: {error}")
            self._leave_out(split, known, [], fault)
            return None
        tokenised: list[tuple[int, TokenisedText]] = []
        for expression in known.expressions:
            try:
                tokenised.append((expression.sent_id, self._text.tokenise(expression.text)))
            except InputError as error:
                where = f"{_name(record)}, sentence {expression.sent_id}"
                fault = Fault("expressions that cannot be encoded", f"{where}: {error}")
                self._leave_out(split, known, [expression.sent_id], fault)
        left_out = self.left_out.get(split, {})
        kept = without(record, left_out)
        if kept is None:
            return None
        self._count(split, kept)
        lost = left_out.get(record.image_id, ())
        return Usable(kept, geometry, [text for sent_id, text in tokenised if sent_id not in lost])

    def settle(
        self, info: DatasetInfo, splits: list[str], *, leave_out_bad: bool
    ) -> tuple[DatasetInfo, list[LeftOutRow]]:
        """The head of the usable part of the data set, and the newly left-out rows.

        Raises:
            InputError: as ``BadRows.settle``.
        """
        none = SplitCounts(refs=0, sentences=0, images=0)
        counts = {split: self._counts.get(split, none) for split in splits}
        left = info.model_copy(update={"splits": {**info.splits, **counts}})
        options = ImportOptions(splits=splits, leave_out_bad=leave_out_bad)
        return self._bad.settle(left, self._images, options)

    def _count(self, split: str, record: ImageRecord) -> None:
        before = self._counts.get(split, SplitCounts(refs=0, sentences=0, images=0))
        self._images.add(split, record.image)
        self._counts[split] = SplitCounts(
            refs=before.refs + len(record.targets),
            sentences=before.sentences + len(record.expressions),
            images=before.images + 1,
        )

    def _leave_out(self, split: str, record: ImageRecord, sent_ids: list[int], fault: Fault) -> None:
        """Leave out sentences of the record; all if ``sent_ids`` is empty."""
        of_split = self.left_out.setdefault(split, {})
        every = {one.sent_id for one in record.expressions}
        before = of_split.get(record.image_id, ())
        lost = {*before, *sent_ids} if sent_ids else every
        of_split[record.image_id] = () if lost >= every else tuple(sorted(lost))
        row = SourceRow(
            file=self._source.path(split).name,
            split=split,
            row=", ".join([_name(record), *(f"sentence {one}" for one in sent_ids)]),
            image=record.image,
            expressions=len(sent_ids) or len(every),
        )
        self._bad.add(row, fault)


def without(record: ImageRecord, left_out: Mapping[int, tuple[int, ...]]) -> ImageRecord | None:
    """What remains of a record, without targets that no remaining sentence refers to; None if nothing.

    Args:
        left_out: sentences of its split, by image; an empty tuple: all of the image.
    """
    lost = left_out.get(record.image_id)
    if lost is None:
        return record
    said = [one for one in record.expressions if lost and one.sent_id not in lost]
    if not said:
        return None
    places = {old: new for new, old in enumerate(sorted({one.target for one in said}))}
    return record.model_copy(
        update={
            "targets": tuple(record.targets[old] for old in places),
            "expressions": tuple(one.model_copy(update={"target": places[one.target]}) for one in said),
        }
    )


def _name(record: ImageRecord) -> str:
    return f"image {record.image_id}"
