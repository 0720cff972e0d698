"""``score`` and ``compare``: masks of any origin by everybody's rules, and two models side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maris_fast.system.terminal import say


def score(
    predictions: Annotated[
        Path,
        typer.Argument(help='JSON lines: {"sent_id": 1, "prediction": {"size": [H, W], "counts": "..."}}'),
    ],
    dataset: Annotated[Path, typer.Argument(help="folder that `maris-fast import` wrote")],
    split: Annotated[str, typer.Option(help="split of the data set")] = "val",
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            help="scoring rules: maris, lavt, cris, cris-val, rela, lisa, vlt, phrasecut, or all that masks "
            "allow; may be repeated, or separated by commas"
        ),
    ] = None,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="probability threshold that the masks were made with")
    ] = 0.5,
    bootstrap: Annotated[
        int, typer.Option(min=0, help="resamples of images for 95% intervals; 0: no intervals")
    ] = 1000,
    breakdown: Annotated[
        bool, typer.Option(help="print scores by category, size, length and words; always in the JSON")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="JSON file for the scores, or a folder for a file named by data set and split"),
    ] = None,
    per_expression: Annotated[
        Path | None, typer.Option(help="JSON lines file for the IoU of each expression")
    ] = None,
) -> None:
    """Score masks of any model on an imported data set, by the rules of all protocols."""

    from maris_fast import scoring
    from maris_fast.data_shards.records import ImportedDataset
    from maris_fast.evaluation.evaluate import show
    from maris_fast.evaluation.expression_file import require_place, write_lines
    from maris_fast.evaluation.score_masks import score_masks
    from maris_fast.evaluation.scores_file import write_scores
    from maris_fast.scoring import from_masks
    from maris_fast.system.progress import counted

    names = [name for names in protocol or () for name in names.split(",")]
    asked = scoring.named(names)
    protocols = from_masks.computable(asked, threshold, named=scoring.ALL not in names)
    if per_expression is not None:
        require_place(per_expression)
    data = ImportedDataset(dataset)
    with counted("expressions") as progress:
        table, lines = score_masks(predictions, data, split, protocols, progress)
    results = {"as written": scoring.whole(table, bootstrap=bootstrap)}
    show(results, split, breakdown=breakdown)
    for one in asked:
        reason = from_masks.why_not(one, threshold)
        line = f"{one.name}: {from_masks.how(one)}" if reason is None else f"{one.name}: not scored: {reason}"
        say(line)
    for line in data.info.incomplete([split]):
        say(line)
    if out is not None:
        made_of = {"predictions": str(predictions)}
        say(f"wrote {write_scores(out, results, data.info, split, made_of)}")
    if per_expression is not None:
        write_lines(per_expression, lines)
        say(f"wrote {per_expression}")


def compare(
    first: Annotated[
        Path, typer.Argument(metavar="A", help="file of `maris-fast eval` or `score` --per-expression")
    ],
    second: Annotated[Path, typer.Argument(metavar="B", help="another such file, of the same expressions")],
    bootstrap: Annotated[int, typer.Option(min=1, help="resamples of images")] = 2000,
    most: Annotated[
        int, typer.Option(min=0, help="number of expressions to show, those with the largest differences")
    ] = 10,
    out: Annotated[Path | None, typer.Option(help="JSON file for the comparison")] = None,
) -> None:
    """Compare two models on the same expressions: differences with intervals, and the largest ones."""
    import json

    from rich.console import Console

    from maris_fast.evaluation import paired
    from maris_fast.scoring.summary import warnings
    from maris_fast.system.files import replace_text, writing

    found = paired.compare(first, second, resamples=bootstrap, most=most)
    console = Console()
    for grid in paired.tables(found, ("A", "B")):
        console.print(grid)
    equal = found.expressions - found.better - found.worse
    say(f"A: {first}\nB: {second}")
    say(f"B is better on {found.better:,} expressions, worse on {found.worse:,}, equal on {equal:,}")
    say("An interval with 0 in it: other images of the same kind may well turn the difference around.")
    for line in warnings(found.images):
        say(f"warning: {line}")
    if out is not None:
        with writing(out, "--out"):
            replace_text(out, [json.dumps(found.content(), indent=1) + "\n"])
        say(f"wrote {out}")
