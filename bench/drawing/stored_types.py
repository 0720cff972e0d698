"""What a stored type of the features loses: in the features, and in the oIoU of training on them."""

from __future__ import annotations

from maris_fast.ablation.comparison import MeasuredScores, conditions_told, shown, shown_differences
from maris_fast.ablation.record import Record
from maris_fast.bench.drawing.markdown import commits_told, table
from maris_fast.bench.results import Suite

ROW = "quickstart"


def stored_types_block(suite: Suite) -> str:
    """Bytes and errors of each type, and the conditions."""
    lines = [
        [
            row["stored"],
            f"{row['bytes_an_image'] / 1e6:.2f}",
            ", ".join(f"{error:.2%}" for error in row["rms_error_mean"]),
            f"{max(row['rms_error_largest']):.2%}",
        ]
        for row in suite.rows
    ]
    first, here = suite.rows[0], suite.environment
    told = (
        f"({first['images']} photographs, {first['arch']} at {first['image_size']} px, weights: "
        f"{first['weights']}; {here['device']}, torch {here['packages']['torch']}, "
        f"{commits_told([suite.commit])}, {suite.date[:10]}.)"
    )
    head = ["stored", "MB an image", "RMS error, levels 1, 2, 3", "largest of an image"]
    return "\n".join([*table(head, lines), "", told])


def stored_scores_block(int8: Record, bf16: Record) -> str:
    """oIoU of the quickstart trained and scored on each type, and their difference seed by seed."""
    base = int8.scores(ROW)
    measured = {
        "int8": MeasuredScores.of(base, base),
        "bf16": MeasuredScores.of(bf16.scores(ROW), base),
    }
    lines = [
        [
            name,
            str(len(of.seeds)),
            shown(*of.scores["oIoU"]),
            "–" if name == "int8" else shown_differences(of.differences),
        ]
        for name, of in measured.items()
    ]
    head = ["quickstart trained and scored on", "seeds", "oIoU", "minus int8"]
    return "\n".join([*table(head, lines), "", f"(bf16: {'; '.join(conditions_told(bf16))}.)"])
