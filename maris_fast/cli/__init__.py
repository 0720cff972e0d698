"""The command line, ``maris-fast``: the roof over all packages. It imports them when a command runs."""

from maris_fast.cli.app import app

__all__ = ["app"]
