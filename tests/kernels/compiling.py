"""What the compiler says of an operation's kernels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from maris_fast.kernels.triton_here import KNOWN


def compiled_for(operation: str, architecture: int, *options: str) -> list[dict[str, Any]]:
    """A row a kernel, from a process of its own: in this one, Triton may be the interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", f"maris_fast.kernels.{operation}.compiled", str(architecture), *options]
    out = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    return [json.loads(line) for line in out.splitlines()]


def too_large(compiled: list[dict[str, Any]], architecture: int) -> list[dict[str, Any]]:
    """Those that spill, or want more shared memory than a block may have."""
    limit = KNOWN[architecture].shared_bytes
    return [c for c in compiled if c["spilled_bytes"] or c["shared_bytes"] > limit]
