"""``eval``, ``score`` and ``compare``: scores of weights, of any masks, and a comparison of two models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from maris_fast.cli.launching import launch
from maris_fast.cli.options import Bootstrap, Breakdown, Device, options_of, separated
from maris_fast.system.terminal import say


def evaluate(
    context: typer.Context,
    weights: Annotated[Path, typer.Argument(help="a run's folder, or a weights file")],
    cache: Annotated[str, typer.Argument(help="folder that `maris-fast cache` wrote, or its address")],
    split: Annotated[str, typer.Option(help="split of the cache")] = "val",
    swapped: Annotated[
        bool,
        typer.Option(help="also score with each expression replaced by one of another object of the image"),
    ] = False,
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            help="scoring rules: maris, lavt, cris, cris-val, rela, lisa, vlt, phrasecut or all; may be "
            "repeated, or separated by commas"
        ),
    ] = None,
    bootstrap: Bootstrap = 1000,
    breakdown: Breakdown = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help=".json file for the scores, or a folder for a file named by data set and split; "
            "`maris-fast report` reads those in a run's folder"
        ),
    ] = None,
    per_expression: Annotated[
        Path | None,
        typer.Option(
            help="JSON lines file for ids, sentence, IoU and predicted mask of each expression; "
            "`maris-fast compare` reads two such files"
        ),
    ] = None,
    device: Device = "auto",
    ranks: Annotated[
        int,
        typer.Option(
            min=0,
            help="processes to start on this machine; 0: this is one of those that a launcher has started",
        ),
    ] = 1,
    local_rank: Annotated[int | None, typer.Option("--local_rank", "--local-rank", hidden=True)] = None,
) -> None:
    """Score weights on a split: oIoU, mIoU and Pr@X at the original size, also by other papers' rules."""
    from maris_fast.config import cache_place
    from maris_fast.weight_files import find_weights

    place = cache_place(cache)
    if ranks:
        weights = find_weights(weights)
        say(f"scoring {weights} on {split} of {place}", err=True)
        from maris_fast.train.cache_splits import require_split

        # Checked here, so that an error is not lost in the launcher's output.
        require_split(place, split)
    if ranks > 1:
        command = scoring_command(weights, place, split=split, swapped=swapped, out=out)
        command += [argument for name in protocol or () for argument in ("--protocol", name)]
        command += ["--bootstrap", str(bootstrap), "--device", device]
        command += ["--breakdown"] if breakdown else []
        command += ["--per-expression", str(per_expression)] if per_expression is not None else []
        sys.exit(launch(ranks, *command))
    from maris_fast.errors import MarisError
    from maris_fast.evaluation.evaluate import score_weights
    from maris_fast.train.rank_output import report_error

    try:
        score_weights(
            weights,
            place,
            split,
            swapped=swapped,
            protocols=separated(protocol),
            bootstrap=bootstrap,
            breakdown=breakdown,
            out=out,
            per_expression=per_expression,
            device=device,
            alone=ranks == 1,
        )
    except MarisError as error:
        if ranks:
            raise
        report_error(error, options_of(context.command))
        sys.exit(2)


def scoring_command(
    weights: Path, cache: object, *, split: str, swapped: bool = False, out: Path | None = None
) -> list[str]:
    """Arguments for the launcher to score ``weights`` on a split of ``cache``."""
    command = ["--module", "maris_fast.evaluation", str(weights), str(cache), "--split", split]
    if swapped:
        command.append("--swapped")
    if out is not None:
        command += ["--out", str(out)]
    return command


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
    bootstrap: Bootstrap = 1000,
    breakdown: Breakdown = False,
    out: Annotated[
        Path | None,
        typer.Option(help=".json file for the scores, or a folder for a file named by data set and split"),
    ] = None,
    per_expression: Annotated[
        Path | None, typer.Option(help="JSON lines file for the IoU of each expression")
    ] = None,
) -> None:
    """Score masks of any model on an imported data set, by the rules of all protocols."""

    from maris_fast import scoring
    from maris_fast.data_shards.records import ImportedDataset
    from maris_fast.evaluation.evaluate import show
    from maris_fast.evaluation.expression_file import write_lines
    from maris_fast.evaluation.score_masks import score_masks
    from maris_fast.evaluation.scores_file import require_scores_place, write_scores
    from maris_fast.scoring import from_masks
    from maris_fast.system.files import require_place
    from maris_fast.system.progress import counted

    names = separated(protocol)
    asked = scoring.named(names)
    protocols = from_masks.computable(asked, threshold, named=scoring.ALL not in names)
    if per_expression is not None:
        require_place(per_expression, "`per_expression`")
    if out is not None:
        require_scores_place(out)
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
    from maris_fast.system.files import replace_text, require_place, writing

    if out is not None:
        require_place(out, "--out")
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
