"""A name for user IDs without one (``docker run --user 12345``): torch's compiler needs it on import."""

from __future__ import annotations

import getpass
import os


def name_the_user() -> None:
    """Set ``USER`` for this process and its children if neither environment nor system has a user name."""
    try:
        getpass.getuser()
    except (KeyError, OSError):  # the latter from Python 3.13 on
        os.environ["USER"] = f"uid-{os.getuid()}"
