"""A user id without a name, as ``docker run --user 12345`` gives: torch's compiler asks for one on import."""

from __future__ import annotations

import getpass
import os


def name_the_user() -> None:
    """Sets ``USER``, for this process and its children, where neither environment nor system has a name."""
    try:
        getpass.getuser()
    except (KeyError, OSError):  # the latter from Python 3.13 on
        os.environ["USER"] = f"uid-{os.getuid()}"
