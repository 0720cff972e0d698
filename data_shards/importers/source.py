"""The source of an import, and the interface of a form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Any

from maris_fast.data_shards.importers.image_checks import find_image_root
from maris_fast.data_shards.importers.options import ImportOptions
from maris_fast.data_shards.importers.split_names import PLACEHOLDER, files_by_split, split_of_name
from maris_fast.data_shards.importers.text_encoding import read_json
from maris_fast.data_shards.plain_json import parse_json
from maris_fast.data_shards.records import OWN, TRAIN, DatasetInfo
from maris_fast.errors import InputError

_LOOKED_INTO = 20
"""Number of rows that are inspected to recognize a form."""


@dataclass(frozen=True)
class Document:
    """A JSON file, read once."""

    path: Path
    split: str | None = None
    """From the file's name; None: the file is the only one."""

    @property
    def split_or_train(self) -> str:
        """``split``, or else the split that the file's name ends with, or else "train"."""
        return self.split or split_of_name(self.path.stem) or TRAIN

    @cached_property
    def content(self) -> Any:
        """
        Raises:
            ValueError: not JSON, or an object has a key twice.
            InputError: no such file, or of an unknown encoding.
        """
        return parse_json(read_json(self.path))

    def under(self, *keys: str) -> Any:
        """What the content has under these keys, one within the other; None if it has nothing there."""
        found = self.content_or_none()
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return found

    def dicts(self, *keys: str, first: int | None = None) -> list[dict[str, Any]]:
        """The dicts in the list under these keys, or among its ``first`` rows; empty if there is no list."""
        rows = self.under(*keys)
        return [row for row in rows[:first] if isinstance(row, dict)] if isinstance(rows, list) else []

    def forget(self) -> None:
        """Drop the content, which takes gigabytes for large files; it is read again if needed."""
        self.__dict__.pop("content", None)

    def required(self, whose: str) -> Any:
        """
        Raises:
            InputError: as ``content``; if it is not JSON, it is reported as not being ``whose``.
        """
        try:
            return self.content
        except ValueError as error:
            raise InputError(f"{self.path} is not {whose}: {error}") from error

    def content_or_none(self) -> Any:
        """The content, or None if it cannot be read; the form that reads it reports the error."""
        try:
            return self.content
        except (InputError, ValueError):
            return None

    def changed(self, content: Any, split: str | None = None) -> Document:
        """A document with the same path, other content, and another split if one is given."""
        other = Document(self.path, split or self.split)
        other.__dict__["content"] = content
        return other


def first_with_rows(documents: Sequence[Document], *keys: str) -> Document | None:
    """The first document that can be read and is not empty, by which the form of all is recognized.

    Some data sets have a file without rows, such as CRIS' test.json of G-Ref by google.

    Args:
        keys: those of the list that must not be empty in a document that has it.

    Returns:
        The very first if all are empty; None if there are none.
    """
    able = (one for one in documents if one.content_or_none() and one.under(*keys) != [])
    return next(able, next(iter(documents), None))


@dataclass(frozen=True)
class Source:
    """The data set to import.

    Attributes:
        root: absolute; holds the data set, and its images if they are at their usual place.
        dataset: folder or file below it; with ``{split}`` in a name, one file or folder per split.
        folder: the output folder.
        at: where the data set was unpacked, if it was.
    """

    root: Path
    dataset: str
    options: ImportOptions
    split_by: str | None
    folder: Path
    at: Path | None = None

    @property
    def place(self) -> Path:
        return self.at or self.root / self.dataset

    @cached_property
    def documents(self) -> Sequence[Document]:
        """The named JSON files, or those in a folder that are named for a split.

        If no file is, those in subfolders that are named for a split.

        Raises:
            InputError: a named file does not exist; a folder may have none.
        """
        if self.place.is_dir():
            named = [(split_of_name(path.stem), path) for path in sorted(self.place.glob("*.json"))]
            named = [one for one in named if one[0] is not None] or [
                (split_of_name(path.parent.name), path) for path in sorted(self.place.glob("*/*.json"))
            ]
            return [Document(path, split) for split, path in named if split is not None]
        return [Document(path, split) for split, path in files_by_split(self.root, self.dataset)]

    def forget(self) -> None:
        """Drop the content of all documents that were read."""
        for document in self.__dict__.get("documents", ()):
            document.forget()

    def first_with_rows(self, *keys: str) -> Document | None:
        """As the function, of the source's documents; None if a named file does not exist."""
        try:
            return first_with_rows(self.documents, *keys)
        except InputError:
            return None

    def content(self) -> Any:
        """The content of the first document with rows; None if there is none or it cannot be read."""
        document = self.first_with_rows()
        return None if document is None else document.content_or_none()

    def lists(self) -> list[str]:
        """The keys of the first document with rows, if it has any."""
        content = self.content()
        return list(content) if isinstance(content, dict) else []

    def rows(self, *keys: str) -> list[dict[str, Any]]:
        """The first rows of the list under these keys in the first document that has any there."""
        document = self.first_with_rows(*keys)
        return [] if document is None else document.dicts(*keys, first=_LOOKED_INTO)

    def with_defaults(self, **options: Any) -> Source:
        """A copy with these options set where they are None."""
        unsaid = {name: value for name, value in options.items() if getattr(self.options, name) is None}
        other = replace(self, options=replace(self.options, **unsaid))
        other.__dict__.update({name: self.__dict__[name] for name in ("documents",) if name in self.__dict__})
        return other

    def images_of(self, split: str | None) -> str:
        """The path of the split's images below the image folder if ``images`` has ``{split}``, else empty."""
        parts = self.options.images.parts if self.options.images else ()
        below = "/".join(dropwhile(lambda part: PLACEHOLDER not in part, parts))
        return below.replace(PLACEHOLDER, split or "")

    def head(
        self, name: str | None = None, split_by: str = OWN, *, images: Sequence[str] = (".",), **more: Any
    ) -> DatasetInfo:
        """The head of the data set to write, except for its counts.

        Args:
            name: None: that of the file or folder.
            images: folders below the root to search for images, if the options name none.

        Raises:
            InputError: there is no image folder.
        """
        dataset = Path(self.dataset)
        if PLACEHOLDER in str(dataset.parent):
            dataset = _before_split(dataset)
        own = dataset.stem.replace(PLACEHOLDER, "").strip("._-") or self.root.name
        named = self.options.images
        if named is not None and PLACEHOLDER in str(named):
            named = _before_split(named)
        image_root = find_image_root(self.root, named, images)
        return DatasetInfo(
            name=name or own,
            split_by=split_by,
            image_root=str(image_root.resolve() if split_by == OWN else image_root),
            **{"source": str(self.root / self.dataset), "splits": {}, **more},
        )


def _before_split(path: Path) -> Path:
    return Path(*takewhile(lambda part: PLACEHOLDER not in part, path.parts))


@dataclass(frozen=True)
class Form:
    """One of the layouts that data sets come in.

    Attributes:
        files: the files by which it is recognized, for the message on a source of no known form.
        found: whether a source has this form; must not raise for a source of another form.
        read: checks the whole data set, and writes it.
        divided: whether it has several divisions that ``split_by`` chooses from.
    """

    files: str
    found: Callable[[Source], bool]
    read: Callable[[Source], DatasetInfo]
    divided: bool = False
