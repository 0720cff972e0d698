"""``push``: a run's best weights, a cache or a data set to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maris_fast.cli.options import License, options_of, require_license
from maris_fast.system.terminal import say, with_options


def push(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="of a run, of a cache, or of an imported data set")],
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME", help="of the Hugging Face Hub")],
    out: Annotated[
        Path | None,
        typer.Option(help="folder for the files; nothing is uploaded, so that they can be looked at first"),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="make the repository a private one")] = False,
    license: License = None,
    pictures: Annotated[
        bool, typer.Option(help="of a run: with its last sheet of validation images and masks")
    ] = True,
) -> None:
    """Share a trained model, a cache or an imported data set as a repository of the Hub, with a card.

    `maris_fast.Predictor.from_pretrained("ORG/NAME")` loads a model, or the folder of --out; a cache is read
    at `data.cache=hf://datasets/ORG/NAME`.
    """
    from maris_fast.system.hub import require_login, require_repository, upload

    require_repository(repository)
    require_license(license)
    if out is None:
        require_login()
    import tempfile

    from maris_fast.sharing import write_repository
    from maris_fast.system.new_folder import new_folder

    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch, "files") if out is None else out
        with new_folder(target) as new:
            written = write_repository(folder, new, repository=repository, license=license, pictures=pictures)
        for note in written.notes:
            say(f"note: {with_options(note, options_of(context.command))}", err=True)
        if out is not None:
            say(f"wrote {out}; nothing was uploaded")
            return
        say(f"uploading {folder} to {repository}", err=True)
        page = upload(
            target,
            repository,
            kind=written.kind,
            private=private,
            replacing=written.replaced,
            last=written.last,
            message=f"Push {folder.resolve().name}",
        )
        say(f"pushed: {page}")
