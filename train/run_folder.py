"""A run folder has one owner: rank 0, as long as the run lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from maris_fast.errors import ConfigError
from maris_fast.system.locks import OccupiedError, confirm, owned_folder
from maris_fast.train.ranks import Ranks


@contextmanager
def owned_by_rank_zero(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Owns ``folder`` until the block ends: no other run writes to it. All ranks must enter it.

    Raises:
        ConfigError: on all ranks; another run owns the folder, or it cannot be written.
    """
    with ExitStack() as until_the_end:

        def own() -> None:
            try:
                if not folder.exists():
                    folder.mkdir(parents=True, exist_ok=True)
                    until_the_end.callback(_remove_if_empty, folder)
                until_the_end.enter_context(owned_folder(folder))
            except OccupiedError as error:
                raise ConfigError(
                    f"run.folder {error}; wait for its end, or set run.folder to a new one; {error.by_hand}"
                ) from error
            except OSError as error:
                raise ConfigError(
                    f"run.folder {folder} cannot be written: {error}; set it to another"
                ) from error

        ranks.from_rank_zero(own)
        yield


def _remove_if_empty(folder: Path) -> None:
    """Removes the folder if it is empty, so that a refused run leaves nothing behind."""
    with suppress(OSError):
        folder.rmdir()


def require_still_owned(folder: Path) -> None:
    """Checks ownership before anything is written that resuming relies on; called on rank 0.

    Raises:
        ConfigError: this run was suspended for so long that another has taken over the folder.
    """
    try:
        confirm(folder)
    except OccupiedError as error:
        raise ConfigError(
            f"run.folder {error}: it was taken over while this run was suspended, so this run ends"
        ) from error
