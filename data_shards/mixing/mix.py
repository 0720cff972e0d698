"""Mixes imported data sets into one."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from maris_fast.data_shards.importers.dataset_files import write_head, write_split
from maris_fast.data_shards.importers.import_report import ImportReport
from maris_fast.data_shards.importers.problems import Problems
from maris_fast.data_shards.looks import LOOK_ALIKE
from maris_fast.data_shards.mixing.guard import Allowed, Guard, MixSummary
from maris_fast.data_shards.mixing.joining import Joining
from maris_fast.data_shards.mixing.mixed_sets import Part, parts_of
from maris_fast.data_shards.mixing.pairs import draw_pairs
from maris_fast.data_shards.records import (
    TRAIN,
    UNKNOWN_SPLIT,
    DatasetInfo,
    DroppedPixels,
    LeftOut,
    together,
)
from maris_fast.errors import InputError
from maris_fast.system.new_folder import new_folder
from maris_fast.system.terminal import Table


@dataclass(frozen=True)
class MixReport:
    """The folder that was written, its head, and the findings."""

    folder: Path
    info: DatasetInfo
    summary: MixSummary
    why_not_looked_at: str | None = None
    """What is wrong with the first image whose content could not be compared."""
    pairs: Sequence[Path] = ()
    """The pictures of images that look alike."""

    def table(self) -> Table:
        return ImportReport(self.folder, self.info).table()

    def lines(self) -> list[str]:
        """What the user should know about the train split."""
        found = self.summary
        lines = [f"found: {leak}" for leak in found.leaks] or ["found: no train image is held out"]
        for what, counts in (("removed", found.removed), ("kept", found.kept)):
            if counts.images:
                lines.append(
                    f"{what}: {counts.images:,} images, {counts.refs:,} refs, {counts.sentences:,} sentences"
                )
        lines.append(
            f"compared: {found.by_coco_id:,} images by their number in COCO, {found.by_path:,} by their "
            f"path, {found.by_content:,} by what they show"
        )
        if not found.by_content:
            lines.append("warning: no image was looked into, so a copy under another name is not found")
        if found.not_looked_at:
            lines.append(
                f"warning: the content of {found.not_looked_at:,} images could not be compared, the first: "
                f"{self.why_not_looked_at}"
            )
        if found.look_alikes:
            lines.append(f"{len(found.look_alikes):,} pairs look alike: {_where(self.pairs)}")
        held_out = [split for split in self.info.splits if split != TRAIN]
        if held_out:
            lines.append(f"held-out splits, to score on: {', '.join(held_out)}")
        return [*lines, *self.info.incomplete(), *self.info.about_masks()]


def mix_datasets(
    folders: Sequence[Path],
    out: Path,
    *,
    held_out: Sequence[Path] = (),
    remove_leaks: bool = False,
    keep_own_leaks: bool = False,
    keep_look_alikes: bool = False,
    compare_content: bool = True,
    look_alike: int = LOOK_ALIKE,
    pairs: Path | None = None,
    name: str = "mix",
    progress: Callable[[int, int], None] | None = None,
    looking: Callable[[int, int], None] | None = None,
) -> MixReport:
    """Join imported data sets into one in the folder ``out``.

    Its split "train" combines all train splits, each image with everything that any of them says about it;
    their other splits become ``<data set>_<split>``. Ids are kept distinct by strides, but COCO's own images
    keep COCO's number, and data sets whose annotations are COCO's keep their annotation ids.

    Args:
        folders: of the data sets, each with a train split.
        out: a new or an empty folder.
        held_out: further data sets whose splits other than "train" are held out, though not mixed in.
        remove_leaks: remove train images that are in a held-out split of any of these data sets.
        keep_own_leaks: keep those that are in a held-out split of the same data set and of no other.
        keep_look_alikes: keep those that only look like a held-out image.
        compare_content: compare the image files too, so that copies under other names are found; see
            ``looks``. A file that is missing or cannot be read is counted and reported.
        look_alike: how many of 256 bits may differ between two images that look alike.
        pairs: picture file to draw all look-alike pairs to, even if mixing is then refused.
        name: of the new data set.
        progress: called with the number of records read and the total.
        looking: called with the number of image files examined and the total.

    Raises:
        InputError: ``out`` is not empty; train images are held out and no option allows it; a data set
            is named twice, has no train split, or ids too large; two data sets disagree on an image's size.
            Nothing is left behind.
    """
    parts, others = parts_of(folders, held_out, progress)
    root = _common_root(parts)
    with new_folder(Path(out).absolute()) as folder:
        guard = Guard(parts, others)
        allowed = Allowed(remove_leaks, keep_own_leaks, keep_look_alikes)
        if compare_content:
            guard.look(look_alike, looking)
        problems = Problems(f"the mix of {', '.join(map(str, folders))}", done="mixed")
        mixing = Joining(root, problems)
        train = mixing.join(guard.kept(allowed))
        drawn = draw_pairs(pairs, guard.look_alikes) if pairs is not None else []
        guard.require_allowed(allowed, _where(drawn))
        rest = {
            split_name: mixing.join(part.records(split)) for split_name, part, split in _named_splits(parts)
        }
        problems.raise_if_any()
        if not train:
            raise InputError("no train image is left: all of them are held out")
        info = DatasetInfo(
            name=name,
            split_by=" & ".join(part.name for part in parts),
            image_root=str(root),
            source="; ".join(str(part.dataset.folder.absolute()) for part in parts),
            synthetic=any(part.info.synthetic for part in parts),
            coco_annotations=all(part.info.coco_annotations for part in parts),
            splits={
                split: write_split(folder, split, mixing.records(joined))
                for split, joined in {TRAIN: train, **rest}.items()
            },
            left_out=_left_out(parts),
            dropped_pixels=_dropped_pixels(parts),
            masks_are_boxes=tuple(part.name for part in parts if part.info.masks_are_boxes),
        )
        write_head(folder, info)
        summary = guard.summary(parts, others)
        (folder / "mix.json").write_text(summary.model_dump_json(indent=1))
    return MixReport(Path(out).absolute(), info, summary, guard.why_not_looked_at, drawn)


def _where(drawn: Sequence[Path]) -> str:
    if drawn:
        return f"look at {', '.join(map(str, drawn))}"
    return "with `pairs`, a PNG file, all of them are drawn side by side"


def _left_out(parts: Sequence[Part]) -> dict[str, LeftOut]:
    """What the data sets' imports left out, by the splits of the mix."""
    lost: dict[str, list[LeftOut]] = defaultdict(list)
    joined = [(split, part, split) for split in (TRAIN, UNKNOWN_SPLIT) for part in parts]
    for name, part, split in [*joined, *_named_splits(parts)]:
        if split in part.info.left_out:
            lost[name].append(part.info.left_out[split])
    return {split: together(of_it) for split, of_it in lost.items()}


def _dropped_pixels(parts: Sequence[Part]) -> dict[str, DroppedPixels]:
    """Pixels that the data sets' imports dropped from mask files, including those of held-out splits."""
    of_all: dict[str, list[DroppedPixels]] = defaultdict(list)
    for part in parts:
        for what, dropped in part.info.dropped_pixels.items():
            of_all[what].append(dropped)
    return {
        what: DroppedPixels(files=sum(one.files for one in both), pixels=sum(one.pixels for one in both))
        for what, both in of_all.items()
    }


def _common_root(parts: Sequence[Part]) -> Path:
    roots = [part.info.image_root for part in parts]
    try:
        return Path(os.path.commonpath(roots))
    except ValueError as error:
        raise InputError(
            f"the images have no folder in common: {', '.join(roots)}; import the data sets again, with "
            "absolute paths"
        ) from error


def _named_splits(parts: Sequence[Part]) -> Iterator[tuple[str, Part, str]]:
    """Held-out splits under distinct names: ``refcocoplus_unc_testA``."""
    used: set[str] = {TRAIN}
    for part in parts:
        words = [part.info.name.replace("+", "plus")]
        words += [part.info.split_by] if part.info.split_by not in ("own", "official") else []
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", "_".join(words))
        if any(f"{stem}_{split}" in used for split in part.held_out):
            stem = f"{stem}_{part.number}"
        for split in part.held_out:
            used.add(f"{stem}_{split}")
            yield f"{stem}_{split}", part, split
