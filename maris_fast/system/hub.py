"""Download and upload of files of Hugging Face Hub repositories; huggingface_hub is the client.

The Hub's address and the user's token are those of huggingface_hub: HF_ENDPOINT, HF_TOKEN, ``hf auth login``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Literal

from maris_fast.errors import ArgumentError, CheckpointError
from maris_fast.system.files import FULL

LOGIN = "set HF_TOKEN, or log in with `hf auth login`"
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


class HubError(CheckpointError):
    """A download or an upload failed; the message says why and what to do."""


def is_repository(name: str) -> bool:
    """Whether a name has the form ``org/name``."""
    return _REPOSITORY.fullmatch(name) is not None


def require_repository(name: str) -> None:
    """
    Raises:
        ArgumentError: the name is not a valid repository name.
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        if not is_repository(name):
            raise HFValidationError("expected org/name, the user or organisation first")
        validate_repo_id(name)
    except HFValidationError as error:
        raise ArgumentError(f"{name!r} is not a repository of the Hub: {error}") from error


def downloaded(
    repository: str,
    name: str,
    *,
    revision: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Path:
    """A file of a repository, from the local cache if that is up to date or the Hub is unreachable.

    Args:
        repository: ``org/name``.
        name: path of the file in the repository.
        revision: a branch, a tag or a commit; None: main.
        cache_dir: folder of the cache; None: huggingface_hub's default.
        local_files_only: do not use the network.

    Raises:
        ArgumentError: the name is not a valid repository name.
        HubError: the repository, revision or file does not exist or cannot be accessed.
    """
    require_repository(repository)
    from huggingface_hub import hf_hub_download

    with _telling(repository, revision):
        path = hf_hub_download(
            repository,
            name,
            revision=revision,
            cache_dir=None if cache_dir is None else Path(cache_dir),
            local_files_only=local_files_only,
        )
    return Path(path)


def require_login() -> None:
    """
    Raises:
        HubError: no token was found.
    """
    from huggingface_hub import get_token

    if get_token() is None:
        raise HubError(f"the Hub takes files of users only, and no token was found; {LOGIN}")


def upload(
    folder: Path,
    repository: str,
    *,
    kind: Literal["model", "dataset"],
    private: bool,
    replacing: Sequence[str],
    last: Sequence[str] = (),
    message: str,
) -> str:
    """Upload the files of a folder to a repository, which is created if it does not exist.

    After an interruption the same call resumes: the Hub keeps what it has received.

    Args:
        folder: folder of the files; symbolic links are followed.
        repository: ``org/name``.
        private: make the repository visible to its owners only; False does not change an existing one.
        replacing: patterns of older files to delete, unless ``folder`` has a file of the same name.
        last: names of files that are uploaded in a commit of their own, after all others.
        message: commit message.

    Returns:
        URL of the repository's page.

    Raises:
        ArgumentError: the name is not a valid repository name.
        HubError: there is no token, or it does not permit writing; ``private`` is set and the repository
            is public; or there is no connection.
    """
    require_repository(repository)
    require_login()
    from huggingface_hub import HfApi

    with _telling(repository, None):
        api = HfApi()
        page = api.create_repo(repository, repo_type=kind, private=private or None, exist_ok=True)
        if private and not api.repo_info(repository, repo_type=kind).private:
            raise HubError(
                f"{repository} exists already and is public; make it private on its page, push to another, "
                "or leave out `private`"
            )
        if last:
            api.upload_folder(
                repo_id=repository,
                repo_type=kind,
                folder_path=folder,
                ignore_patterns=[*last],
                commit_message=f"{message}: files",
            )
        api.upload_folder(
            repo_id=repository,
            repo_type=kind,
            folder_path=folder,
            delete_patterns=[*replacing],
            commit_message=message,
        )
    return str(page)


@contextmanager
def _telling(repository: str, revision: str | None) -> Iterator[None]:
    from huggingface_hub import errors

    try:
        yield
    # HTTPError: of its HTTP client; ValueError: a card that the Hub rejects.
    except (errors.EntryNotFoundError, errors.HTTPError, OSError, ValueError) as error:
        raise HubError(f"{repository}: {_told(error, revision)}") from error


def _told(error: Exception, revision: str | None) -> str:
    """A message that says what an error of huggingface_hub means and what to do."""
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    cause = error.__cause__
    if isinstance(error, errors.GatedRepoError):
        return f"its owners ask for consent; give it on the repository's page at {hub}, then {LOGIN}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"no such repository at {hub} that you may read; check the name, or if it is private {LOGIN}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"no revision {revision!r}; name a branch, a tag or a commit with `revision`"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return (
            "no model of maris-fast, which is what `maris-fast push` writes; name another repository, or "
            f"another `revision` (this is {revision or 'main'})"
        )
    if isinstance(error, errors.LocalEntryNotFoundError):
        if isinstance(cause, errors.OfflineModeIsEnabled):
            return "not in the cache, and HF_HUB_OFFLINE is set; unset it, or name `cache_dir`"
        if cause is None:
            return (
                "not in the cache; leave out `local_files_only`, or name the cache's folder with `cache_dir`"
            )
        return f"not in the cache, and {_told(cause, revision) if isinstance(cause, Exception) else cause}"
    if isinstance(error, errors.HfHubHTTPError):
        status, said = error.response.status_code, (error.server_message or "").strip()
        what = f"{hub} answered {status}{f' ({said})' if said else ''}"
        if status in (401, 403):
            return f"{what}; {LOGIN}, with a token that may do this"
        if status == 429 or status >= 500:
            return f"{what}; try again later"
        return what
    if isinstance(error, errors.HTTPError):
        return f"{hub} cannot be reached ({error or type(error).__name__}); check the network, or HF_ENDPOINT"
    if isinstance(error, OSError) and error.errno in FULL:
        return f"{error}; make room there, or name another folder with `cache_dir`"
    return " ".join(str(error).split())
