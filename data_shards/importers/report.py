"""What an import brought, next to what the data set's authors counted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from maris_fast.data_shards.importers.published import (
    PUBLISHED,
    PUBLISHED_SENTENCES,
    verdict,
    verdict_on_all,
)
from maris_fast.data_shards.records import DatasetInfo


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
            table.add_row(split, *(f"{number:,}" for _, number in counts), judged)
            if split in published:
                table.add_row("", *(f"{number:,}" for _, number in published[split]), "", style="dim")
        self._add_all(table)
        return table

    def _add_all(self, table: Table) -> None:
        name, split_by, splits = self.info.name, self.info.split_by, self.info.splits
        judged = verdict_on_all(name, split_by, splits)
        if judged is None:
            return
        sentences = sum(counts.sentences for counts in splits.values())
        table.add_row("all", "", f"{sentences:,}", "", judged)
        table.add_row("", "", f"{PUBLISHED_SENTENCES[name, split_by]:,}", "", "", style="dim")
