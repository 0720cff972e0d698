"""``demo``: a local page where one uploads a photograph, writes sentences and sees their masks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maris_fast.cli.predictor import WEIGHTS, Device, SamWeights, TextWeights, load_predictor, named_weights
from maris_fast.cli.web import LOCAL, AllowHost, Host, note_if_open
from maris_fast.system.terminal import say


def demo(
    weights: Annotated[str, typer.Argument(help=WEIGHTS)],
    sam_weights: SamWeights = None,
    text_weights: TextWeights = None,
    device: Device = "cpu",
    host: Host = LOCAL,
    port: Annotated[int, typer.Option(min=0, max=65535, help="port; 0: any free one")] = 7860,
    example: Annotated[
        list[Path] | None,
        typer.Option(metavar="IMAGE", help="example photograph on the page; may be repeated"),
    ] = None,
    allow_host: AllowHost = None,
) -> None:
    """Serve a local web page: upload a photograph, enter sentences, see masks and attention.

    Needs Gradio: pip install 'maris-fast[demo]'. Ctrl-C ends it.
    """
    file = named_weights(weights)
    import os
    import signal
    import sys
    from contextlib import suppress

    from maris_fast.errors import ConfigError

    try:
        from maris_fast.demo.server import serve
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise ConfigError(
            "the demo's page needs Gradio, which is not installed: pip install 'maris-fast[demo]'"
        ) from error
    from maris_fast.demo.answers import Demo, photograph
    from maris_fast.serving.listening import listening

    examples = example or []
    for path in examples:
        photograph(path)
    note_if_open(host, "page")
    with listening(host, port) as listener:
        predictor = load_predictor(file, sam_weights, text_weights, device)
        # Ended this way too, it removes what was uploaded.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            serve(
                Demo(predictor),
                "/".join(Path(weights).parts[-2:]),
                listener,
                host=host,
                allowed_hosts=allow_host or (),
                examples=examples,
                started=lambda address: say(f"{address}  (Ctrl-C ends it)"),
            )
        say("ended", err=True)
    # All is closed and removed; a request that is still computed is not waited for.
    sys.stdout.flush()
    os._exit(0)
