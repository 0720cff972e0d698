"""Block sizes measured on a machine: the file that the tuner writes and a person can read."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from maris_fast.kernels.mutual_attention.blocks import Blocks, Walk, why_unfit, word_block

ELEMENT_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
INTERPRETED_WARNING = "interpreter: these times say nothing about a GPU"


@dataclass(frozen=True)
class Timed:
    """A walk and its median time."""

    walk: Walk
    ms: float


@dataclass(frozen=True)
class Choice:
    """What was found for one part of a problem.

    ``own`` is the table's walk, None where that could not be timed. ``wrong`` names walks that ran and gave a
    wrong result, ``failed`` those that did not compile or run, each with its reason.
    """

    chosen: Timed
    own: Timed | None
    best: list[Timed]
    tried: int
    wrong: dict[str, str]
    failed: dict[str, str]


@dataclass(frozen=True)
class Problem:
    """What was measured: ``images`` of L_v tokens, each with so many ``expressions`` of L_t words."""

    dtype: str
    L_v: int
    L_t: int
    C: int
    images: int
    expressions: int

    @property
    def key(self) -> tuple[int, int, int]:
        """Element bytes, word block and C: the calls that take what was found."""
        return ELEMENT_BYTES[self.dtype], word_block(self.L_t), self.C


@dataclass(frozen=True)
class Case:
    """A problem and what was found for it."""

    problem: Problem
    forward: Choice
    backward: Choice


@dataclass(frozen=True)
class Measured:
    """The tuner's file. ``architecture`` is the compute capability (90 for 9.0), 0 for the interpreter."""

    device: str
    architecture: int
    warning: str | None
    versions: dict[str, str | None]
    commit: str | None
    date: str
    cases: list[Case]

    def table(self) -> dict[tuple[int, int, int], Blocks]:
        """{(element bytes, word block, C): the block sizes found}.

        Raises:
            ValueError: two cases for the same calls.
        """
        found: dict[tuple[int, int, int], Blocks] = {}
        for case in self.cases:
            key = case.problem.key
            if key in found:
                raise ValueError(
                    f"two cases for {key[0]}-byte elements, up to {key[1]} words and C = {key[2]}; keep one"
                )
            found[key] = Blocks(key[1], case.forward.chosen.walk, case.backward.chosen.walk)
        return found

    def save(self, file: Path) -> None:
        """Writes the file whole or not at all."""
        scratch = file.with_name(f".{file.name}.part")
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(_readable(asdict(self)) + "\n")
        scratch.replace(file)


def read(file: Path) -> Measured:
    """The tuner's file, checked.

    Raises:
        ValueError: no such file, or what is wrong in it and where.
    """
    try:
        measured = _dataclass(Measured, json.loads(file.read_text()), "the file")
        measured.table()
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} can't be used as measured block sizes: {error}") from error
    return measured


def _check(case: Case, where: str) -> None:
    """What the types don't say: sizes the kernels can take."""
    problem = case.problem
    if problem.dtype not in ELEMENT_BYTES:
        raise ValueError(f"{where}: dtype {problem.dtype!r}; known are {', '.join(ELEMENT_BYTES)}")
    unfit = why_unfit(problem.L_t, problem.C)
    if unfit is not None:
        raise ValueError(f"{where}: {unfit}")
    for part, choice in (("forward", case.forward), ("backward", case.backward)):
        walk = choice.chosen.walk
        powers = {"rows": walk.rows, "warps": walk.warps, "chunk": walk.chunk or 16}
        wrong = [f"{name} = {size}" for name, size in powers.items() if size < 1 or size & (size - 1)]
        if wrong or walk.rows < 16 or 0 < walk.chunk < 16 or walk.stages < 1 or walk.programs < 1:
            raise ValueError(
                f"{where}, {part}: {walk}; needed are powers of 2 for rows, warps and chunk, rows and chunk "
                "of 16 or more, and at least one stage and one program"
            )
        if part == "backward" and not walk.chunk:
            raise ValueError(f"{where}, backward: {walk}; needed are chunks, of 16 channels or more")


def _parsed(kind: Any, value: Any, where: str) -> Any:
    """``value``, as JSON gave it, as a ``kind``: a dataclass, list, dict or plain value."""
    if is_dataclass(kind):
        return _dataclass(kind, value, where)
    if get_origin(kind) is list:
        if isinstance(value, list):
            return [_parsed(get_args(kind)[0], child, f"{where}[{i}]") for i, child in enumerate(value)]
    elif get_origin(kind) is dict:
        if isinstance(value, dict):
            return {name: _parsed(get_args(kind)[1], child, where) for name, child in value.items()}
    elif isinstance(kind, UnionType):
        inner = [one for one in get_args(kind) if one is not type(None)]
        return None if value is None else _parsed(inner[0], value, where)
    elif isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool):
        return value
    raise ValueError(f"{where} is {json.dumps(value)[:60]}; needed is {getattr(kind, '__name__', kind)}")


def _dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is {json.dumps(value)[:60]}; needed is an object")
    known = {field.name: field.default is MISSING for field in fields(kind)}
    unknown, missing = sorted(value.keys() - known), sorted(name for name in known if name not in value)
    if unknown:
        raise ValueError(f"{where} has {', '.join(map(repr, unknown))}; known are {', '.join(known)}")
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    types = get_type_hints(kind)
    made = kind(**{name: _parsed(types[name], child, f"{where}.{name}") for name, child in value.items()})
    if isinstance(made, Case):
        _check(made, where)
    return made


def _readable(value: Any, indent: int = 0) -> str:
    """JSON in which what holds nothing nested, or only one level of it, stays on one line."""
    children = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    nested = [child for child in children if isinstance(child, dict | list) and child]
    line = json.dumps(value, ensure_ascii=False)
    if not nested or (len(line) <= 110 and len(children) <= 2):
        return line
    inner, outer = "\n" + " " * (indent + 1), "\n" + " " * indent
    if isinstance(value, dict):
        rows = [f"{json.dumps(key)}: {_readable(child, indent + 1)}" for key, child in value.items()]
        return "{" + inner + f",{inner}".join(rows) + outer + "}"
    return "[" + inner + f",{inner}".join(_readable(child, indent + 1) for child in value) + outer + "]"
