"""A table of variants of one configuration, from the record of ``maris-fast ablate``."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from maris_fast.ablation.comparison import conditions_told, shown, shown_differences
from maris_fast.ablation.ranking import ranking
from maris_fast.ablation.record import Record
from maris_fast.bench.drawing.markdown import table
from maris_fast.data_shards.synthetic.phrasing import KINDS


def variants_block(record: Record, of: Collection[str] | None = None) -> str:
    """oIoU of each row in percent, over all expressions and by kind; ``of``: names of the rows, None: all."""
    if of is not None:
        variants = {name: record.variants[name] for name in record.variants if name in of}
        runs = {name: run for name, run in record.runs.items() if run["row"] in of}
        record = replace(record, variants=variants, runs=runs)
    rows = ranking(record).rows
    head = ["", "settings", "seeds", "oIoU", f"minus {rows[0].title}", *KINDS]
    cells = [
        [
            row.title,
            row.settings,
            str(len(row.measured.seeds)),
            shown(*row.measured.scores["oIoU"]),
            shown_differences(row.measured.differences),
            *(shown(row.kinds[kind]) for kind in KINDS),
        ]
        for row in rows
    ]
    return "\n".join([*table(head, cells), "", f"({'; '.join(conditions_told(record))}.)"])
