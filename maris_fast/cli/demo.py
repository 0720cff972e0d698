"""``demo``: a local page to upload a photograph, enter sentences and see their masks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maris_fast.cli.predictor import WEIGHTS, Device, SamWeights, TextWeights, named_weights
from maris_fast.cli.web import LOCAL, AllowHost, Host, Port, asked_at, of_extra, tell_address


def demo(
    weights: Annotated[str, typer.Argument(help=WEIGHTS)],
    sam_weights: SamWeights = None,
    text_weights: TextWeights = None,
    device: Device = "auto",
    host: Host = LOCAL,
    port: Port = 7860,
    example: Annotated[
        list[Path] | None,
        typer.Option(metavar="IMAGE", help="example photograph on the page; may be repeated"),
    ] = None,
    allow_host: AllowHost = None,
) -> None:
    """Serve a local web page: upload a photograph, enter sentences, see masks and attention.

    Needs Gradio: pip install 'maris-fast[demo]'. Ctrl-C ends it.
    """
    file = named_weights(weights, device)
    with of_extra("demo", "the demo's page", "gradio"):
        from maris_fast.demo.server import serve
    from maris_fast.demo.answers import Demo, photograph

    examples = example or []
    for path in examples:
        photograph(path)
    with asked_at(host, port, "page", file, sam_weights, text_weights, device) as (listener, predictor):
        serve(
            Demo(predictor),
            "/".join(Path(weights).parts[-2:]),
            listener,
            host=host,
            allowed_hosts=allow_host or (),
            examples=examples,
            started=tell_address,
        )
