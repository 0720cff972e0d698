"""Certificates: proof results of this machine, one readable JSON per device in the user's cache folder."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from maris_fast.kernels.choice.operation import Kind, Operation, read, rounded_to

FOLDER_VARIABLE = "MARIS_FAST_CERTIFICATES"
log = logging.getLogger(__name__)

Found = dict[str, Any]
"""For one kind: {"chosen": candidate or None, "results": {candidate: {"ms": ...}, or {"reason": ...}}}."""


def folder() -> Path:
    """Where certificates are kept: MARIS_FAST_CERTIFICATES, or the user's cache folder."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "maris-fast" / "kernels"


# The last two provide FlashAttention 3 and 4.
PACKAGES = ("torch", "triton", "xformers", "flash-attn-3", "flash-attn-4")


@lru_cache
def machine(device: torch.device) -> dict[str, Any]:
    """What a certificate is valid for: the device, and the versions of everything that computes on it."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else f"{device.type} {platform.machine()}",
        "capability": ".".join(map(str, torch.cuda.get_device_capability(device))) if cuda else None,
        "driver": _driver() if cuda else None,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "interpreted": bool(os.environ.get("TRITON_INTERPRET")) and not cuda,
        **{name: version_of(name) for name in PACKAGES},
    }


@dataclass
class Certificates:
    """Those of one device, {operation: {kind: found}}, with the hash that each operation's sources had."""

    machine: dict[str, Any]
    operations: dict[str, dict[str, Found]] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        """The file for this machine: each driver and package version has its own."""
        name = re.sub(r"[^a-z0-9]+", "-", str(self.machine["device"]).lower()).strip("-")
        told = json.dumps(self.machine, sort_keys=True).encode()
        return folder() / f"{name}-{_short_hash(told)}.json"

    def find(self, operation: str, kind: str) -> Found | None:
        """The result for a kind; None if there is none."""
        return self.operations.get(operation, {}).get(kind)

    def learn(self, found: Mapping[str, Mapping[str, Found]], sources: Mapping[str, str]) -> str | None:
        """Keep results in memory and in the file; return why the file can't be written, or None.

        ``sources`` is the hash that each operation's sources had.
        """
        self.take(found, sources)
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                # Another process may have proven other kinds meanwhile.
                whole = _read(self.machine, self.file)
                whole.take(found, sources)
                scratch = self.file.with_suffix(".part")
                scratch.write_text(json.dumps(vars(whole), indent=1) + "\n")
                scratch.replace(self.file)
        except OSError as error:
            return f"{self.file} can't be written ({error.strerror}), so this holds for this process alone"
        return None

    def take(self, found: Mapping[str, Mapping[str, Found]], sources: Mapping[str, str]) -> None:
        """Keep results in memory only."""
        choices.cache_clear()
        for name, kinds in found.items():
            if self.sources.get(name) != sources[name]:
                self.operations[name] = {}
            self.sources[name] = sources[name]
            self.operations.setdefault(name, {}).update(kinds)


@lru_cache
def of_device(device: torch.device) -> Certificates:
    """The device's certificates, read once per process."""
    here = machine(device)
    return _read(here, Certificates(here).file)


def forget() -> None:
    """Clear the caches, so that the files are read again."""
    of_device.cache_clear()
    machine.cache_clear()
    choices.cache_clear()
    _sources_hash.cache_clear()


def chosen(operation: Operation, kind: str, device: torch.device) -> str | None:
    """The implementation that a certificate names for this kind of call; None if there is none.

    This is only a lookup. A certificate of other sources than the current ones is ignored.
    """
    found = _current(operation, device).get(kind)
    name: str | None = found["chosen"] if found else None
    return name


Steps = tuple[tuple[int, ...], tuple[Any, ...]]
"""Bounds of a length in ascending order, and values: one up to each bound, one for all that is longer."""


@lru_cache(maxsize=1024)
def choices(operation: Operation, kind: Kind, device: torch.device, safe: str) -> Steps:
    """What is chosen for calls that differ from ``kind`` only in their two lengths: steps of steps of names.

    A length between proven ones takes what was proven for the next longer one, or the longest, so that equal
    choices make one step; shorter and longer calls than any that was proven take ``safe``.
    """
    assert operation.lengths is not None
    (first, least_first), (second, least_second) = operation.lengths
    unset = {first: 0, second: 0}
    proven: dict[int, dict[int, str]] = {}
    for words, found in _current(operation, device).items():
        other = read(operation.kind, words)
        if other._replace(**unset) == kind._replace(**unset):
            row = proven.setdefault(getattr(other, first), {})
            row[getattr(other, second)] = found["chosen"] or safe
    columns = {column for row in proven.values() for column in row}

    def whole(row: Mapping[int, str]) -> Steps:
        next_longer = {column: min((one for one in row if one >= column), default=0) for column in columns}
        filled = {column: row[one or max(row)] for column, one in next_longer.items()}
        return _steps(filled, least_second, safe)

    return _steps({length: whole(row) for length, row in proven.items()}, least_first, ((), (safe,)))


def _steps(values: Mapping[int, Any], least: int, outside: Any) -> Steps:
    """Steps with a value for each rounded length, and ``outside`` before and after; equal ones are merged."""
    ranges = [(*rounded_to(power, least), value) for power, value in sorted(values.items())]
    shortest = [(outside, ranges[0][0])] if ranges else []
    bounds, merged = [0], list[Any]()
    for value, most in (*shortest, *((value, most) for _, most, value in ranges), (outside, sys.maxsize)):
        if most == bounds[-1]:
            continue
        if merged and merged[-1] == value:
            bounds[-1] = most
        else:
            bounds.append(most)
            merged.append(value)
    return tuple(bounds[1:-1]), tuple(merged)


def chosen_at(lengths: Sequence[int], steps: Steps) -> str:
    """The choice for a call of these two lengths, in the order of the operation's.

    Under torch.compile, where lengths are symbols, a graph serves all lengths of a step.
    """
    value: Any = steps
    for length in lengths:
        bounds, values = value
        step = 0
        while step < len(bounds) and length > bounds[step]:
            step += 1
        value = values[step]
    name: str = value
    return name


def summary(operation: Operation, device: torch.device, safe: str) -> str:
    """A line on what ``auto`` takes for an operation: for the kinds proven here, and for all others."""
    kinds = _current(operation, device)
    if not kinds:
        return f"{safe}: nothing is proven here, `maris-fast kernels prove` does it"
    taken = [found["chosen"] or safe for found in kinds.values()]
    counts = ", ".join(f"{name} for {taken.count(name)}" for name in dict.fromkeys(taken))
    return f"of {len(taken)} proven kinds of calls {counts}; else {safe}"


def _current(operation: Operation, device: torch.device) -> Mapping[str, Found]:
    """The device's results for an operation, by kind; none if they are of other sources."""
    known = of_device(device)
    current = known.sources.get(operation.name) == _sources_hash(operation)
    return known.operations.get(operation.name, {}) if current else {}


@lru_cache
def _sources_hash(operation: Operation) -> str:
    return operation.sources_hash()


def _read(here: dict[str, Any], file: Path) -> Certificates:
    """A file's certificates; empty if it does not exist, is of another state of the
    machine, or can't be used, which logs a warning.
    """
    try:
        content = json.loads(file.read_text())
        known = Certificates(content["machine"], content["operations"], content["sources"])
        for kinds in known.operations.values():
            for found in kinds.values():
                assert found["chosen"] is None or "ms" in found["results"][found["chosen"]]
    except (FileNotFoundError, NotADirectoryError):
        return Certificates(here)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        log.warning(
            "%s can't be used (%s: %s), so nothing is known here; `maris-fast kernels prove` writes it again",
            file,
            type(error).__name__,
            error,
        )
        return Certificates(here)
    return known if known.machine == here else Certificates(here)


def _short_hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]


def _driver() -> str | None:
    try:
        told = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return str(torch.cuda.driver_version()) if hasattr(torch.cuda, "driver_version") else None
    found = re.search(r"\s(\d+\.\d+(\.\d+)?)\s", told)
    return found[1] if found else None


def version_of(package: str) -> str | None:
    """The installed version; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
