"""Loads YAML files, with ``key=value`` overrides from the command line, as validated settings."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from maris_fast.config.base import Settings
from maris_fast.config.plain_yaml import YamlError, dump_yaml, load_yaml, read_yaml
from maris_fast.errors import ConfigError

S = TypeVar("S", bound=Settings)

EXTENDS = "extends"
PACKAGE = Path(__file__).resolve().parents[1]
SHIPPED = ("train/configs", "data_shards/configs")
_OVERRIDE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*=")


def load_settings(kind: type[S], paths: Path | Sequence[Path] | None, overrides: Sequence[str] = ()) -> S:
    """Settings of ``kind`` from YAML files, each on top of those before, with ``section.key=value`` on top.

    Values are read as YAML, so ``null``, ``true``, ``[0.9, 0.95]`` and ``1e-3`` work; ``plain_yaml`` defines
    what is a number. A file may extend others, ``extends: [a.yaml, b.yaml]``, with paths relative to itself:
    later ones win, and the file itself comes last. In both places a configuration that the package ships may
    be named without folder and suffix: ``refcoco_fast``, ``vit_h``, ``ablations/without_ma``.

    Raises:
        ConfigError: no such file, not YAML, files that extend each other in a circle or no files, an unknown
            key (with the nearest known one), a wrong value.
    """
    files = [] if paths is None else [paths] if isinstance(paths, Path) else list(paths)
    values = read_values(files, overrides, [kind.shipped] if kind.shipped else ())
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(kind, error, files)) from error


def read_values(
    files: Sequence[Path], overrides: Sequence[str] = (), shipped: Sequence[str] = SHIPPED
) -> dict[str, Any]:
    """The merged values that ``load_settings`` would validate; their kind of settings is not known yet.

    Args:
        shipped: folders of the package whose files have short names.

    Raises:
        ConfigError: no such file, not YAML, or files that extend each other in a circle.
    """
    values: dict[str, Any] = {}
    for file in files:
        _merge(values, _read(_found(file, shipped), (), shipped))
    for override in overrides:
        _override(values, override)
    return values


def is_override(word: str) -> bool:
    """Whether a word of a command line reads as ``section.key=value``; ``runs/lr=1e-3`` does not."""
    return _OVERRIDE.match(word) is not None


def as_override(key: str, value: object) -> str:
    """``key=value`` that is read back as the text of ``value``, or as the number that it is."""
    text = str(value)
    if isinstance(value, int):
        return f"{key}={text}"
    try:
        plain = load_yaml(text) == text
    except YamlError:
        plain = False
    return f"{key}={text if plain else json.dumps(text)}"  # JSON is valid YAML


def dump_settings(settings: Settings) -> str:
    """YAML that ``load_settings`` reads back to the same settings."""
    return dump_yaml(settings.model_dump(mode="json"))


def flat(sections: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by ``section.key``."""
    values: dict[str, Any] = {}
    for name, value in sections.items():
        inner = isinstance(value, Mapping)
        values |= flat(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": value}
    return values


def _found(file: Path, shipped: Sequence[str], beside: Path | None = None) -> Path:
    """A file by its path, relative to the file ``beside`` that extends it, or by its name in the package."""
    path = file if beside is None else beside.parent / file
    if path.is_file():
        return path
    folders = [PACKAGE / folder for folder in shipped]
    known = {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for folder in reversed(folders)
        for path in sorted(folder.rglob("*.yaml"))
    }
    if file.as_posix() in known:
        return known[file.as_posix()]
    names = ", ".join(name for name in sorted(known) if "/" not in name)
    named_by = f" (which {beside} extends)" if beside else ""
    raise ConfigError(f"no configuration file {path}{named_by}; of the package's own there are {names}")


def _read(path: Path, extending: tuple[Path, ...], shipped: Sequence[str]) -> dict[str, Any]:
    """A file's values on top of those of the files that it extends."""
    if path.resolve() in [one.resolve() for one in extending]:
        circle = " -> ".join(str(one) for one in (*extending, path))
        raise ConfigError(f"configuration files extend each other in a circle: {circle}")
    own = read_yaml(path) or {}
    if not isinstance(own, dict):
        raise ConfigError(f"{path} must hold sections with keys, not a {type(own).__name__}")
    bases = own.pop(EXTENDS, [])
    if isinstance(bases, str):
        bases = [bases]
    if not isinstance(bases, list) or not all(isinstance(base, str) and base for base in bases):
        raise ConfigError(
            f"{path}: extends is {bases!r}; expected a file's name or a list of names, or no such line"
        )
    values: dict[str, Any] = {}
    for base in bases:
        _merge(values, _read(_found(Path(base), shipped, path), (*extending, path), shipped))
    _merge(values, own)
    return values


def _merge(values: dict[str, Any], later: dict[str, Any]) -> None:
    for key, value in later.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _merge(values[key], value)
        else:
            values[key] = value


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"{override!r} is not of the form section.key=value")
    try:
        value = load_yaml(text)
    except YamlError as error:
        raise ConfigError(f"the value in {override!r} is not YAML: {error}") from error
    *sections, last = key.split(".")
    for section in sections:
        inner = values.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{override!r}: {section} is a value, not a section")
        values = inner
    values[last] = value


def _explain(kind: type[BaseModel], error: ValidationError, files: Sequence[Path]) -> str:
    named = f" of {' and '.join(map(str, files))}" if files else ""
    lines = [f"settings{named} cannot be used:"]
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"  {where}: there is no such key{_nearest(kind, problem['loc'])}")
        elif problem["type"] == "missing":
            lines.append(f"  {where}: is missing; add it to the file or as {where}=...")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            given = "" if isinstance(problem["input"], dict) else f" (was {problem['input']!r})"
            lines.append(f"  {where}: {message}{given}" if where else f"  {message}")
    return "\n".join(lines)


def _nearest(kind: type[BaseModel], location: tuple[int | str, ...]) -> str:
    for part in location[:-1]:
        annotation = kind.model_fields[str(part)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return ""
        kind = annotation
    known = list(kind.model_fields)
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"
