"""YAML without surprising types, duplicate keys or exploding aliases.

Of YAML 1.1's many spellings only those of JSON and YAML 1.2 are values, and digits grouped as in ``1_000``:
``yes``, ``off``, ``010``, ``1:30`` and ``2024-01-01`` are text. A duplicate key is an error, and so are
aliases that expand to far more than is written.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from maris_fast.errors import ConfigError

MOST_BYTES = 1_000_000
MOST_NODES = 100_000
"""Limit on the values of a file with all aliases expanded; the longest configuration here has 100."""


class YamlError(ConfigError):
    """Text that is not YAML, or too large."""


_RESOLVERS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9_]*)|0x[0-9a-fA-F_]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9][0-9_]*\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
)


class _Plain:
    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}


for _tag, _pattern, _first in _RESOLVERS:
    for _letter in _first:
        _Plain.yaml_implicit_resolvers.setdefault(_letter, []).append(
            (f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})\\Z"))
        )


class _Loader(_Plain, yaml.SafeLoader):
    pass


class _Dumper(_Plain, yaml.SafeDumper):
    pass


def read_yaml(path: Path) -> Any:
    """Content of a YAML file.

    Raises:
        YamlError: the file cannot be read or is too large, or see ``load_yaml``.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise YamlError(f"it has more than {MOST_BYTES:,} bytes, so it is not a configuration")
        return load_yaml(content.decode())
    except UnicodeDecodeError as error:
        raise YamlError(
            f"{path} is not YAML: it is not UTF-8 (byte {error.start:,}); save it as UTF-8"
        ) from error
    except OSError as error:
        raise YamlError(f"{path} cannot be read: {error}") from error
    except YamlError as error:
        raise YamlError(f"{path} is not YAML: {error}") from error


def load_yaml(text: str) -> Any:
    """Content of a YAML document.

    Raises:
        YamlError: it is not YAML, has a duplicate key, or is too large with its aliases expanded.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if (nodes := _written_out(node, {})) > MOST_NODES:
            raise YamlError(
                f"with its aliases written out it has {nodes:,} values, read are at most {MOST_NODES:,}"
            )
        return loader.construct_document(node)
    except YamlError:
        raise
    except RecursionError as error:
        raise YamlError("it is nested too deep") from error
    except Exception as error:  # PyYAML raises nearly anything for a value that does not fit its tag
        raise YamlError(str(error)) from error


def dump_yaml(values: Any) -> str:
    """A document that ``load_yaml`` reads back to the same."""
    written: str = yaml.dump(values, Dumper=_Dumper, sort_keys=False)
    return written


def _written_out(node: Node, known: dict[int, int]) -> int:
    """Number of values with each alias counted as a copy."""
    if id(node) in known:
        if not known[id(node)]:
            raise YamlError(f"an alias refers to a value that contains it{_line(node)}")
        return known[id(node)]
    known[id(node)] = 0
    parts: list[Node] = []
    if isinstance(node, SequenceNode):
        parts = node.value
    elif isinstance(node, MappingNode):
        parts = [part for pair in node.value for part in pair]
        _require_keys_once(node)
    known[id(node)] = 1 + sum(_written_out(part, known) for part in parts)
    return known[id(node)]


def _require_keys_once(node: MappingNode) -> None:
    seen = set()
    for key, _ in node.value:
        if isinstance(key, ScalarNode) and key.value in seen:
            raise YamlError(f"the key {key.value!r} appears twice{_line(key)}; keep one of them")
        seen.add(key.value if isinstance(key, ScalarNode) else key)


def _line(node: Node) -> str:
    return f", line {node.start_mark.line + 1}"
