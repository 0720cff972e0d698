"""The paper's ablations as they were measured here, as tables."""

from __future__ import annotations

from maris_fast.ablation.comparison import HEAD, conditions_told, sections, verdicts
from maris_fast.ablation.record import Record
from maris_fast.bench.drawing.markdown import table


def ablations_block(records: list[Record]) -> str:
    """For each device Tables 2-5 and the other rows, what several seeds say, and the conditions."""
    parts = []
    for record in records:
        for section in sections({name: record.scores(name) for name in record.variants}, record.rows()):
            parts += [f"**{section.title}**", "", *table(HEAD, section.cells()), ""]
        parts += [*(f"- {line}" for line in verdicts(record)), ""]
        parts += [f"({'; '.join(conditions_told(record))}.)", ""]
    return "\n".join(parts).rstrip()
