"""The command line, ``maris-fast``, on top of all packages, which it imports only when a command runs."""

from maris_fast.cli.app import app

__all__ = ["app"]
