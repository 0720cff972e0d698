"""Cache writers that are killed, each a fork of one process with everything loaded; run by the tests.

    OMP_NUM_THREADS=1 python -m tests.data.killed_writers DATASET OUT MOMENTS...

First OUT/whole is written without interruption. MOMENTS are fractions of the time that this took: for each,
a writer with its own folder is killed that long after its start. Without MOMENTS, a writer is killed before
each call that changes a name or makes it durable, until one finishes. A second writer then completes each
folder. Prints one JSON list per killed writer: the names in its folder at that time.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from maris_fast.data_shards.cache import write
from maris_fast.encoders import SamEncoder, TextEncoder
from tests.data.cache_dataset import tiny_settings

SETTINGS: dict[str, Any] = {"shard_bytes": 60_000, "batch_size": 2}


def die_at(number: int) -> Callable[[], None]:
    """Return a hook that makes this process die instead of its ``number``th fsync, rename or unlink."""
    calls = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **named)

        return call

    def install() -> None:
        os.fsync = counted(os.fsync)
        Path.rename = counted(Path.rename)  # type: ignore[method-assign]
        Path.unlink = counted(Path.unlink)  # type: ignore[method-assign]

    return install


def forked(dataset: Path, out: Path, install: Callable[[], None] = lambda: None) -> int:
    child = os.fork()
    if child == 0:
        install()
        write.write_cache(dataset, out, tiny_settings(**SETTINGS), progress=False)
        os._exit(0)
    return child


def ended(child: int) -> int:
    """Wait for ``child``; return its exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def finish(dataset: Path, out: Path) -> None:
    print(json.dumps(sorted(path.name for path in out.glob("*"))), flush=True)
    status = ended(forked(dataset, out))
    if status:
        sys.exit(f"{out}: the second writer ended with {status}")


def load_encoders() -> None:
    """Load the encoders once for all forks."""
    settings = tiny_settings().encoders
    sam, text = SamEncoder(settings.sam), TextEncoder(settings.text)
    write.SamEncoder = lambda *arguments: sam  # type: ignore[misc,assignment]
    write.TextEncoder = lambda *arguments: text  # type: ignore[misc,assignment]


def main() -> None:
    dataset, out, *moments = sys.argv[1:]
    load_encoders()
    folder = Path(out)
    began = time.monotonic()
    if ended(forked(Path(dataset), folder / "whole")):
        sys.exit("the undisturbed writer failed")
    undisturbed = time.monotonic() - began
    for i, moment in enumerate(moments):
        child = forked(Path(dataset), folder / str(i))
        time.sleep(float(moment) * undisturbed)
        os.kill(child, signal.SIGKILL)
        ended(child)
        finish(Path(dataset), folder / str(i))
    number = 0
    while not moments:
        number += 1
        if ended(forked(Path(dataset), folder / str(number), die_at(number))) == 0:
            break
        finish(Path(dataset), folder / str(number))


if __name__ == "__main__":
    main()
