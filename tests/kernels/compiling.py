"""What the compiler reports about an operation's kernels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from maris_fast.kernels.triton_here import KNOWN

Rows = list[dict[str, Any]]

RUN_EACH = """
import json, runpy, sys
for module, *words in json.loads(sys.argv[1]):
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__")
    print()
"""


def compiled_by(operation: str, *commands: str) -> dict[str, Rows]:
    """A row per kernel, by command line; all command lines run in one separate process.

    In the current process, Triton may be the interpreter.
    """
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    module = f"maris_fast.kernels.{operation}.compiled"
    words = json.dumps([[module, *given.split()] for given in commands])
    command = [sys.executable, "-c", RUN_EACH, words]
    out = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    parts = out.removesuffix("\n\n").split("\n\n")
    rows = [[json.loads(line) for line in part.splitlines()] for part in parts]
    return dict(zip(commands, rows, strict=True))


def too_large(compiled: Rows, architecture: int) -> Rows:
    """Rows of kernels that spill, or need more shared memory than a block may have."""
    limit = KNOWN[architecture].shared_bytes
    return [c for c in compiled if c["spilled_bytes"] or c["shared_bytes"] > limit]
