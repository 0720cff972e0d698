"""Variants of one configuration, as ``maris-fast ablate`` left them, in a table."""

from __future__ import annotations

from collections.abc import Collection
from statistics import mean

from maris_fast.ablation.comparison import MeasuredScores, conditions_told, shown, shown_differences
from maris_fast.ablation.record import Record
from maris_fast.bench.drawing.markdown import table
from maris_fast.data_shards.synthetic.phrasing import KINDS
from maris_fast.errors import InputError


def variants_block(record: Record, of: Collection[str] | None = None) -> str:
    """oIoU of each row in percent, and differences within seeds to the row that changes nothing.

    Args:
        of: names of the rows drawn; None: all.

    Raises:
        InputError: each row changes something.
    """
    chosen = [name for name in record.variants if of is None or name in of]
    base = next((name for name in chosen if not record.variants[name]["changes"]), None)
    if base is None:
        raise InputError(f"each of the rows {', '.join(chosen)} changes a setting: none to compare with")
    others = [name for name in chosen if name != base and record.scores(name)]
    ranked = sorted(others, key=lambda name: -_mean(record, name, None))
    head = ["", "settings", "seeds", "oIoU", f"minus {base}", *KINDS]
    rows = [_row(record, name, base) for name in (base, *ranked)]
    return "\n".join([*table(head, rows), "", f"({'; '.join(conditions_told(record))}.)"])


def _row(record: Record, name: str, base: str) -> list[str]:
    changes = record.variants[name]["changes"]
    measured = MeasuredScores.of(record.scores(name), {} if name == base else record.scores(base))
    return [
        record.variants[name]["title"],
        ", ".join(f"`{key.removeprefix('model.')}: {value}`" for key, value in changes.items())
        or "as shipped",
        str(len(measured.seeds)),
        shown(*measured.scores["oIoU"]),
        shown_differences(measured.differences),
        *(shown(_mean(record, name, kind)) for kind in KINDS),
    ]


def _mean(record: Record, name: str, kind: str | None) -> float:
    """Over seeds, in percent: oIoU of a kind of expression, or of all."""
    runs = record.scores(name).values()
    return 100 * mean((run["kinds"][kind] if kind else run)["oIoU"] for run in runs)
