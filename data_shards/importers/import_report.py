"""The counts of an import, next to those that the data set's authors published."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from maris_fast.data_shards.importers.left_out import LISTING
from maris_fast.data_shards.importers.published import (
    PUBLISHED,
    PUBLISHED_SENTENCES,
    verdict,
    verdict_on_all,
)
from maris_fast.data_shards.records import DatasetInfo
from maris_fast.system.terminal import Table


@dataclass(frozen=True)
class ImportReport:
    """The folder that was written, and its head."""

    folder: Path
    info: DatasetInfo

    def table(self) -> Table:
        """Refs, sentences and images per split, the published counts below ours where there are any."""
        table = Table(title=f"{self.info.name} ({self.info.split_by})")
        table.add_column("split")
        for column in ("refs", "sentences", "images"):
            table.add_column(column, justify="right")
        table.add_column("against the published counts")
        published = PUBLISHED.get((self.info.name, self.info.split_by), {})
        for split, counts in self.info.splits.items():
            judged = verdict(self.info.name, self.info.split_by, split, counts)
            table.add_row(split, *(f"{number:,}" for _, number in counts), self._judged(judged, split))
            if split in published:
                table.add_row("", *(f"{number:,}" for _, number in published[split]), "", style="dim")
        self._add_all(table)
        return table

    def left_out_table(self) -> Table | None:
        """Rows, expressions and images that are left out, by split and reason; None if nothing is."""
        if not self.info.left_out:
            return None
        table = Table(title="left out")
        table.add_column("split")
        table.add_column("reason")
        for column in ("rows", "expressions", "images"):
            table.add_column(column, justify="right")
        for split, lost in self.info.left_out.items():
            for reason, of_it in lost.reasons.items():
                table.add_row(split, reason, *(f"{number:,}" for _, number in of_it))
        return table

    def warnings(self) -> list[str]:
        """Warnings about incomplete splits, masks and shared photographs; empty if there are none."""
        lines = [*self.info.incomplete(), *self.info.about_masks()]
        if self.info.left_out:
            lines.append(f"each row that is left out is named in {self.folder / LISTING}")
        return [*lines, *map(str, self.info.shared)]

    def _judged(self, judged: str, *splits: str) -> str:
        lost = [self.info.left_out[split] for split in splits if split in self.info.left_out]
        if not any(one.expressions for one in lost):
            return judged
        expressions, images = (sum(getattr(one, what) for one in lost) for what in ("expressions", "images"))
        return f"{judged}; NOT COMPLETE: {expressions:,} sentences, {images:,} images left out"

    def _add_all(self, table: Table) -> None:
        name, split_by, splits = self.info.name, self.info.split_by, self.info.splits
        judged = verdict_on_all(name, split_by, splits)
        if judged is None:
            return
        sentences = sum(counts.sentences for counts in splits.values())
        table.add_row("all", "", f"{sentences:,}", "", self._judged(judged, *self.info.left_out))
        table.add_row("", "", f"{PUBLISHED_SENTENCES[name, split_by]:,}", "", "", style="dim")
