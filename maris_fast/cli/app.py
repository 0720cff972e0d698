"""The commands by name, and how their errors are shown."""

from __future__ import annotations

import logging
import sys
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from typer.core import TyperGroup

from maris_fast import __version__
from maris_fast.cli import (
    ablation,
    attention,
    data,
    demo,
    doctor,
    examples,
    export,
    inspection,
    plan,
    predict,
    predict_many,
    push,
    quickstart,
    reporting,
    scores,
    serve,
    training,
)
from maris_fast.cli.bench import bench
from maris_fast.cli.kernels import kernels
from maris_fast.cli.options import options_of
from maris_fast.errors import MarisError
from maris_fast.system.end_signals import interrupting
from maris_fast.system.files import FULL
from maris_fast.system.linux import require_linux
from maris_fast.system.standard_streams import sturdy
from maris_fast.system.terminal import PrintableFormatter, printable, say, with_options


class Commands(TyperGroup):
    """Runs a command; an error that the user can act on is printed without a traceback, exit status 2.

    A closed standard output (``| head``) does not end a command: it still writes all of its files.
    Signals that ask it to end have the effect of Ctrl-C.
    """

    def invoke(self, ctx: Any) -> Any:
        if logging.lastResort is not None:
            logging.lastResort.setFormatter(PrintableFormatter())
        with sturdy() as streams, interrupting():
            try:
                require_linux()
                result = super().invoke(ctx)
                streams.require_written()
            except MarisError as error:
                command = self.get_command(ctx, ctx.invoked_subcommand or "")
                _end(with_options(str(error), options_of(command)))
            except OSError as error:
                _end(_of_the_system(error))
        return result


def _of_the_system(error: OSError) -> str:
    """Message for an error that no command handles: the file's name, the reason, and a remedy if known."""
    named = " and ".join(str(one) for one in (error.filename, error.filename2) if one is not None)
    reason = error.strerror or str(error)
    todo = "; make room on that disk" if error.errno in FULL else ""
    return f"{named or 'a file or connection'}: {reason}{todo}"


def _end(message: str) -> NoReturn:
    Console(stderr=True, soft_wrap=True).print(
        f"error: {printable(message)}", style="red", markup=False, highlight=False
    )
    sys.exit(2)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Retrain MARIS, referring image segmentation from frozen SAM and CLIP features, fast.",
)


def _say_version(wanted: bool) -> None:
    if wanted:
        say(f"maris-fast {__version__}")
        raise typer.Exit


@app.callback()
def before_a_command(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="print the version and exit"),
    ] = False,
) -> None:
    """Options of the program itself."""


app.command("quickstart")(quickstart.quickstart)
app.command("scenes")(data.scenes)
app.command("pretrain")(data.pretrain)
app.command("import")(data.import_annotations)
app.command("mix")(data.mix)
app.command("cache")(data.cache)
app.command("verify")(data.verify)
app.command("plan")(plan.plan)
app.command("train", context_settings={"ignore_unknown_options": True})(training.train)
app.command("eval")(scores.evaluate)
app.command("score")(scores.score)
app.command("compare")(scores.compare)
app.command("ablate")(ablation.ablate)
app.command("predict")(predict.predict)
app.command("predict-many")(predict_many.predict_many)
app.command("attention")(attention.attention)
app.command("demo")(demo.demo)
app.command("serve")(serve.serve)
app.command("examples")(examples.examples)
app.command("push")(push.push)
app.command("export")(export.export)
app.add_typer(bench, name="bench")
app.add_typer(kernels, name="kernels")
app.command("report")(reporting.report)
app.command("info")(inspection.info)
app.command("doctor")(doctor.doctor)
