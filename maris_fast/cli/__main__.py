"""``python -m maris_fast.cli``, where the script is not on PATH."""

from maris_fast.cli.app import app

app(prog_name="maris-fast")
