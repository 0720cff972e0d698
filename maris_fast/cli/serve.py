"""``serve``: a trained model as an HTTP service, for programs and for Label Studio."""

from __future__ import annotations

from typing import Annotated

import typer

from maris_fast.cli.predictor import WEIGHTS, Device, SamWeights, TextWeights, load_predictor, named_weights
from maris_fast.cli.web import LOCAL, AllowHost, Host, note_if_open
from maris_fast.system.terminal import say

EXTRA = ("fastapi", "starlette", "uvicorn", "python_multipart")


def serve(
    weights: Annotated[str, typer.Argument(help=WEIGHTS)],
    sam_weights: SamWeights = None,
    text_weights: TextWeights = None,
    device: Device = "cpu",
    host: Host = LOCAL,
    port: Annotated[int, typer.Option(min=0, max=65535, help="port; 0: any free one")] = 9090,
    allow_host: AllowHost = None,
    max_upload: Annotated[int, typer.Option(min=1, metavar="MIB", help="size of a photograph's file")] = 32,
    max_pixels: Annotated[int, typer.Option(min=1, help="pixels of a photograph")] = 25_000_000,
    max_sentences: Annotated[int, typer.Option(min=1, help="sentences of a request")] = 16,
    at_once: Annotated[int, typer.Option(min=1, help="requests that may share a forward pass")] = 8,
    queue: Annotated[int, typer.Option(min=1, help="requests that may wait; others get 503")] = 200,
    per_client: Annotated[
        int, typer.Option(min=1, help="of those, requests of one address; others get 429")
    ] = 64,
    timeout: Annotated[float, typer.Option(min=0.1, help="seconds to answer a request; then 503")] = 60,
    grace: Annotated[float, typer.Option(min=0, help="seconds to finish requests when asked to end")] = 25,
    keep_images: Annotated[
        int, typer.Option(min=0, help="photographs whose features are kept for more sentences")
    ] = 8,
    label_studio: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Label Studio server to fetch images of tasks from"),
    ] = None,
) -> None:
    """Serve a model over HTTP: photographs and sentences in, masks out; also a backend of Label Studio.

    POST /segment, GET /health, /ready and /openapi.json. Needs: pip install 'maris-fast[serve]'. SIGTERM or
    Ctrl-C ends it once the requests that are there are answered.
    """
    file = named_weights(weights)
    import os
    import sys
    from contextlib import suppress

    from maris_fast.errors import ConfigError

    try:
        from maris_fast.service.server import serve as serve_until_ended
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        raise ConfigError(
            f"the service needs {error.name}, which is not installed: pip install 'maris-fast[serve]'"
        ) from error
    from maris_fast.service.label_studio_files import LabelStudioFiles
    from maris_fast.service.segmenting import Segmenting
    from maris_fast.service.settings import ServiceSettings
    from maris_fast.serving.listening import listening
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
    note_if_open(host, "service")
    with listening(host, port, "service") as listener:
        predictor = load_predictor(file, sam_weights, text_weights, device)
        with suppress(KeyboardInterrupt):
            serve_until_ended(
                Segmenting(predictor, settings),
                f"maris-fast-{sha256_of(file)[:12]}",
                files,
                listener,
                host=host,
                allowed_hosts=allow_host or (),
                started=lambda address: say(f"{address}  (Ctrl-C ends it)"),
            )
        say("ended", err=True)
    # What is still computed is not waited for.
    sys.stdout.flush()
    os._exit(0)
