"""``serve``: a trained model as an HTTP service, for programs and for Label Studio."""

from __future__ import annotations

from typing import Annotated

import typer

from maris_fast.cli.predictor import WEIGHTS, Device, SamWeights, TextWeights, named_weights
from maris_fast.cli.web import LOCAL, AllowHost, Host, Port, asked_at, of_extra, tell_address
from maris_fast.service.settings import ServiceSettings

DEFAULT = ServiceSettings()
EXTRA = ("fastapi", "starlette", "uvicorn", "python_multipart", "httpx")


def serve(
    weights: Annotated[str, typer.Argument(help=WEIGHTS)],
    sam_weights: SamWeights = None,
    text_weights: TextWeights = None,
    device: Device = "auto",
    host: Host = LOCAL,
    port: Port = 9090,
    allow_host: AllowHost = None,
    max_upload: Annotated[
        int, typer.Option(min=1, metavar="MIB", help="size of a photograph's file")
    ] = DEFAULT.upload_bytes >> 20,
    max_pixels: Annotated[int, typer.Option(min=1, help="pixels of a photograph")] = DEFAULT.pixels,
    max_sentences: Annotated[int, typer.Option(min=1, help="sentences of a request")] = DEFAULT.sentences,
    at_once: Annotated[
        int, typer.Option(min=1, help="requests that may share a forward pass")
    ] = DEFAULT.at_once,
    queue: Annotated[
        int, typer.Option(min=1, help="requests that may wait; others get 503")
    ] = DEFAULT.waiting,
    per_client: Annotated[
        int, typer.Option(min=1, help="of those, requests of one address; others get 429")
    ] = DEFAULT.of_one,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="seconds to answer a request; then 503")
    ] = DEFAULT.seconds,
    grace: Annotated[
        float, typer.Option(min=0, help="seconds to finish requests when asked to end")
    ] = DEFAULT.grace,
    keep_images: Annotated[
        int, typer.Option(min=0, help="photographs whose features are kept for more sentences")
    ] = DEFAULT.keep_images,
    label_studio: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Label Studio server to fetch images of tasks from"),
    ] = None,
) -> None:
    """Serve a model over HTTP: photographs and sentences in, masks out; also a backend of Label Studio.

    POST /segment, GET /health, /ready and /openapi.json. Needs: pip install 'maris-fast[serve]'. SIGTERM or
    Ctrl-C ends it once pending requests are answered.
    """
    from maris_fast.errors import ArgumentError
    from maris_fast.images import MOST_PIXELS

    if max_pixels > MOST_PIXELS:
        raise ArgumentError(f"`max_pixels` is {max_pixels:,}; no image of more than {MOST_PIXELS:,} is read")
    file = named_weights(weights, device)
    import os

    with of_extra("serve", "the service", *EXTRA):
        from maris_fast.service.label_studio_files import LabelStudioFiles
        from maris_fast.service.server import serve as serve_until_ended
    from maris_fast.service.segmenting import Segmenting
    from maris_fast.system.files import sha256_of

    settings = ServiceSettings(
        upload_bytes=max_upload << 20,
        pixels=max_pixels,
        sentences=max_sentences,
        at_once=at_once,
        waiting=queue,
        of_one=per_client,
        seconds=timeout,
        grace=grace,
        keep_images=keep_images,
    )
    files = None
    if label_studio is not None:
        files = LabelStudioFiles(label_studio, os.environ.get("LABEL_STUDIO_API_KEY"), settings.upload_bytes)
    with asked_at(host, port, "service", file, sam_weights, text_weights, device) as (listener, predictor):
        serve_until_ended(
            Segmenting(predictor, settings),
            f"maris-fast-{sha256_of(file)[:12]}",
            files,
            listener,
            host=host,
            allowed_hosts=allow_host or (),
            started=tell_address,
        )
