"""``quickstart``: the whole pipeline on synthetic scenes, with the commands used for real data."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maris_fast.cli import data
from maris_fast.cli.launching import launch
from maris_fast.cli.options import Overrides
from maris_fast.cli.scores import scoring_command
from maris_fast.config import as_override
from maris_fast.errors import InputError, MarisError
from maris_fast.system.files import replace_text, writing
from maris_fast.system.terminal import say

if TYPE_CHECKING:
    from maris_fast.data_shards.records import ImageRecord

EXAMPLES_A_KIND = 2
BEGUN, SECONDS = "quickstart.json", "seconds.json"
"""Files with the requested settings, and with the duration of each finished step."""


def quickstart(
    folder: Annotated[
        Path, typer.Option("--out", "--folder", help="new folder for all output, or one to resume")
    ] = Path("runs/quickstart"),
    ranks: Annotated[int, typer.Option(min=1, help="training processes")] = 2,
    train_images: Annotated[int, typer.Option(min=1)] = 1200,
    val_images: Annotated[int, typer.Option(min=1)] = 160,
    overrides: Overrides = None,
) -> None:
    """Run the whole pipeline on synthetic scenes: import, cache, train, evaluate, predict, in minutes.

    If interrupted, the same command resumes.
    """
    from maris_fast import train
    from maris_fast.weight_files import BEST

    dataset, cache, run = (folder / name for name in ("dataset", "cache", "training"))
    asked = {"train_images": train_images, "val_images": val_images, "overrides": [*(overrides or ())]}
    _begin(folder, asked)
    watch = Stopwatch(folder / SECONDS)
    weights, scores, picture = run / BEST, folder / "scores.json", folder / "predictions.png"
    try:
        prepare(folder, watch, train_images=train_images, val_images=val_images)
        with watch.step("train", f"train on {ranks} DeepSpeed ranks") as wanted:
            if wanted:
                _launch(
                    ranks,
                    str(Path(train.__file__).with_name("main.py")),
                    *("--config", "quickstart"),
                    as_override("data.cache", cache),
                    as_override("run.folder", run),
                    "run.resume=auto",
                    *(overrides or ()),
                )
        title = "evaluate on held-out scenes, as written and with expressions exchanged"
        with watch.step("evaluate", title) as wanted:
            if wanted:
                _launch(ranks, *scoring_command(weights, cache, split="val", swapped=True, out=scores))
        with watch.step("predict", "predict") as wanted:
            if wanted:
                _draw(weights, dataset, picture)
                say(f"a sheet of held-out scenes: {picture}")
    except KeyboardInterrupt:
        say("stopped; the same command resumes", err=True)
        raise typer.Exit(130) from None
    _conclude(json.loads(scores.read_text()), weights, picture, sum(watch.seconds.values()))


def _begin(folder: Path, asked: dict[str, Any]) -> None:
    """Create ``folder``; raise InputError unless it is new, empty or this quickstart, not yet finished."""
    begun = folder / BEGUN
    if begun.is_file():
        try:
            before = json.loads(begun.read_text())
        except ValueError:
            before = None
        if before != asked:
            raise InputError(
                f"{folder} has a quickstart of other settings: {before}, these are {asked}; give the same "
                "or name another folder with --out"
            )
        if "predict" in _seconds(folder / SECONDS):
            raise InputError(f"{folder} has a finished quickstart; remove it, or name another with --out")
    elif folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty; remove it, or name another with --out")
    with writing(folder, "--out"):
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(begun, [json.dumps(asked) + "\n"])


def prepare(
    folder: Path, watch: Stopwatch, *, train_images: int, val_images: int, cache_settings: Sequence[str] = ()
) -> None:
    """Scenes -> import -> cache, in ``folder``; steps that an earlier call has finished are skipped."""
    root, dataset = folder / "scenes", folder / "dataset"
    with watch.step("scenes", "render scenes") as wanted:
        if wanted and not root.exists():
            data.scenes(root, train_images=train_images, val_images=val_images)
    with watch.step("import", "import them like RefCOCO") as wanted:
        if wanted and not dataset.exists():
            data.import_annotations(root, "scenes", split_by="synthetic", out=dataset)
    with watch.step("cache", "cache the frozen encoders' features") as wanted:
        if wanted:
            data.cache(
                dataset, overrides=[*cache_settings], folder=str(folder / "cache"), config=Path("quickstart")
            )


class Stopwatch:
    """Prints the title and duration of each step, and keeps the seconds by name.

    Args:
        file: stores them, so that a resumed quickstart skips the steps in it.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self.seconds: dict[str, float] = {} if file is None else _seconds(file)

    @contextmanager
    def step(self, name: str, title: str) -> Iterator[bool]:
        """Time a step; yields whether it is still to be done."""
        done = name in self.seconds
        number = [*self.seconds].index(name) if done else len(self.seconds)
        typer.secho(f"\n{number + 1}. {title}{': done before' if done else ''}", bold=True)
        if done:
            yield False
            return
        began = time.monotonic()
        yield True
        self.seconds[name] = round(time.monotonic() - began, 1)
        if self._file is not None:
            replace_text(self._file, [json.dumps(self.seconds) + "\n"])
        say(f"   {self.seconds[name]:.0f} s")


def _seconds(file: Path) -> dict[str, float]:
    if not file.is_file():
        return {}
    seconds: dict[str, float] = json.loads(file.read_text())
    return seconds


def _launch(ranks: int, *command: str) -> None:
    status = launch(ranks, *command)
    if status:
        raise MarisError(f"the step above ended with status {status}; its own message is above")


def _draw(weights: Path, dataset: Path, out: Path) -> None:
    """Overlays of the first held-out expressions of each kind."""
    from maris_fast.data_shards.records import ImportedDataset
    from maris_fast.images import load_image
    from maris_fast.pictures.overlays import Panel, sheet
    from maris_fast.prediction import Predictor

    source = ImportedDataset(dataset)
    predictor = Predictor(weights)
    panels = []
    for record, index in _examples(list(source.records("val"))):
        expression = record.expressions[index]
        image = load_image(
            Path(source.info.image_root) / record.image, (record.height, record.width), record.orientation
        )
        mask = predictor.masks(image, expression.text)
        truth = record.targets[expression.target].mask.decode()
        panels.append(Panel(image, mask, expression.text, truth))
    sheet(panels, columns=4).save(out)


def _examples(records: Sequence[ImageRecord]) -> Iterator[tuple[ImageRecord, int]]:
    """The first expressions of each kind, each from an image of its own; not selected by their result."""
    wanted: dict[str | None, int] = {}
    for record in records:
        for index, expression in enumerate(record.expressions):
            if wanted.setdefault(expression.kind, EXAMPLES_A_KIND) > 0:
                wanted[expression.kind] -= 1
                yield record, index
                break


def _conclude(scores: dict[str, Any], weights: Path, picture: Path, seconds: float) -> None:
    written, exchanged = scores["as written"]["oIoU"], scores["exchanged"]["oIoU"]
    typer.secho(f"\nDone in {seconds / 60:.1f} minutes.", bold=True)
    say(f"oIoU on held-out scenes           {written:.3f}")
    say(f"... with expressions exchanged    {exchanged:.3f}  ({_verdict(written, exchanged)})")
    say(f"pictures                          {picture}")
    say(f'your own:  maris-fast predict IMAGE "the red circle" --weights {weights.parent}')


def _verdict(written: float, exchanged: float) -> str:
    """Exchanged sentences must hurt a model that reads them; one that only sees objects loses little."""
    if exchanged < written / 3:
        return "less than a third: the model reads the sentence"
    return "not less than a third: it does not read the sentence well"
