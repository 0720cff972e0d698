"""Which ranks are at fault, judged from what all have reported; no sockets, clocks or threads here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from maris_fast.config import EngineSettings
from maris_fast.train.heartbeat.identity import Identity

LOST = 75
"""Exit status of a rank that ends because of another; sysexits' EX_TEMPFAIL: it may be tried again."""
FAILED = 2
"""Exit status after an error that the user can act on."""

GRACE = 0.5
"""Seconds from the first sign to the diagnosis: a rank's death reaches its peers as errors of their own."""
ABRUPT = 0.1
"""Seconds within which ranks count as having ended together; later ones were ended by the launcher."""

GO_ON = "The same command with run.resume=auto resumes from the last checkpoint."


@dataclass(frozen=True)
class Beat:
    """What a rank reports with each heartbeat."""

    phase: str
    step: int
    waiting: float
    """Seconds, at least, for which it has been waiting for other ranks without progress."""
    still: float
    """Seconds without progress."""
    place: str
    on_gpu: bool = False
    """Whether computing may be a wait for other ranks: a collective returns at once, and a later call that
    reads from the device waits for it."""


@dataclass
class Heard:
    """What is known about a rank; times are of the receiver's monotonic clock."""

    last: float
    beat: Beat | None = None
    gone: float | None = None
    failed: tuple[float, str, int] | None = None
    """When, what, and the exit status that the run should have."""


@dataclass(frozen=True)
class Diagnosis:
    """``culprits`` are ranks; ``hung`` ones may have to be killed. ``shared``: all met the same error."""

    culprits: tuple[int, ...]
    text: str
    status: int = LOST
    hung: bool = False
    shared: bool = False

    def plain(self) -> dict[str, Any]:
        return {**self.__dict__, "culprits": list(self.culprits)}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Diagnosis:
        return cls(**{**plain, "culprits": tuple(plain["culprits"])})


@dataclass(frozen=True)
class Timeouts:
    """Limits in seconds."""

    silence: float
    stall: float
    patience: float
    quick: frozenset[str] = field(default=frozenset({"reading data", "computing"}))

    @classmethod
    def of(cls, engine: EngineSettings) -> Timeouts:
        return cls(engine.heartbeat_seconds, engine.stall_seconds, 60 * engine.timeout_minutes)

    def wait(self, phase: str) -> tuple[float, str]:
        """How long others may wait for a rank in ``phase``, and the setting that determines it."""
        if phase in self.quick:
            return self.stall, f"engine.stall_seconds = {self.stall:g}"
        return self.longest()

    def longest(self) -> tuple[float, str]:
        """The limit of what may take long, and its setting."""
        return self.patience, f"engine.timeout_minutes = {self.patience / 60:g}"


def diagnose(
    ranks: Sequence[Identity], heard: Mapping[int, Heard], now: float, limits: Timeouts
) -> Diagnosis | None:
    """The diagnosis from what rank 0 has heard; None while nothing is wrong, or not enough is known.

    A process that has ended takes precedence over an error that a rank has met, since it causes errors in its
    peers; both take precedence over silence, and silence over a stall.
    """
    gone = sorted((one.gone, rank) for rank, one in heard.items() if one.gone is not None)
    failed = sorted((one.failed, rank) for rank, one in heard.items() if one.failed is not None)
    signs = [gone[0][0]] if gone else []
    signs += [failed[0][0][0]] if failed else []
    if signs:
        if now - min(signs) < GRACE:
            return None
        if gone:
            first = gone[0][0]
            together = [rank for when, rank in gone if when - first < ABRUPT]
            return Diagnosis(tuple(together), _ended(ranks, heard, together))
        return _failed(ranks, heard, failed)
    silent = [rank for rank, one in heard.items() if now - one.last > limits.silence]
    if silent:
        return Diagnosis(tuple(silent), _silence(ranks, heard, silent, limits), hung=True)
    return _stall(ranks, heard, limits)


def lost_rank_zero(
    ranks: Sequence[Identity], beat: Beat | None, limits: Timeouts, *, silent: bool
) -> Diagnosis:
    """The other ranks' diagnosis of rank 0, which judges all of them; ``beat`` is its last one known."""
    heard = {0: Heard(0.0, beat)}
    text = _silence(ranks, heard, [0], limits) if silent else _ended(ranks, heard, [0])
    return Diagnosis((0,), text, hung=silent)


def _silence(
    ranks: Sequence[Identity], heard: Mapping[int, Heard], silent: list[int], limits: Timeouts
) -> str:
    return (
        f"{_names(ranks, silent)} {_plural(silent, 'has', 'have')} been silent for {limits.silence:g} s"
        f"{_seen(heard, silent)}: stopped or swapping, the machine is down, or the network is cut. (If a "
        f"process may legitimately be silent for that long, set engine.heartbeat_seconds higher.) {GO_ON}"
    )


def _ended(ranks: Sequence[Identity], heard: Mapping[int, Heard], gone: list[int]) -> str:
    return (
        f"{_names(ranks, gone)} {_plural(gone, 'is', 'are')} gone{_seen(heard, gone)}: ended without a "
        f"message, as after SIGKILL, lack of memory (see `dmesg`) or a crash. {GO_ON}"
    )


def _failed(
    ranks: Sequence[Identity],
    heard: Mapping[int, Heard],
    failed: list[tuple[tuple[float, str, int], int]],
) -> Diagnosis:
    (_, what, status), rank = failed[0]
    if len(failed) == len(ranks) and all(one[2] == FAILED for one, _ in failed):
        return Diagnosis(tuple(rank for _, rank in failed), what, FAILED, shared=True)
    text = f"{ranks[rank]} failed{_where(heard, rank)}: {what}"
    return Diagnosis((rank,), text if status == FAILED else f"{text}. {GO_ON}", status)


def _stall(ranks: Sequence[Identity], heard: Mapping[int, Heard], limits: Timeouts) -> Diagnosis | None:
    beats = {rank: one.beat for rank, one in heard.items() if one.beat is not None}
    if len(beats) < len(ranks):
        return None
    waiting = {rank: beat.waiting for rank, beat in beats.items() if beat.waiting > 0}
    busy = {rank: beat for rank, beat in beats.items() if rank not in waiting}
    if not busy:
        limit, setting = limits.wait(beats[max(waiting, key=lambda rank: waiting[rank])].phase)
        since = min(waiting.values())
        return _all_stuck(beats, "been waiting for one another", since, setting) if since > limit else None
    unclear = {rank for rank, beat in busy.items() if beat.on_gpu and beat.phase == "computing"}
    behind = min(beat.step for beat in busy.values())
    laggards = [rank for rank, beat in sorted(busy.items()) if beat.step == behind]
    # In another phase, a rank does work of its own, and those that compute this step wait for it.
    laggards = [rank for rank in laggards if rank not in unclear] or laggards
    ahead = unclear - set(laggards)
    if not waiting and not ahead:
        # Nothing tells a wait from a long step, or which rank is stuck.
        limit, setting = limits.longest()
        since = min(beat.still for beat in busy.values())
        return _all_stuck(beats, "made no progress", since, setting) if unclear and since > limit else None
    longest = max(waiting.values()) if waiting else min(busy[rank].still for rank in ahead)
    limit_of = {
        rank: limits.longest() if rank in unclear and not waiting else limits.wait(busy[rank].phase)
        for rank in laggards
    }
    # A rank that has made progress since the others began to wait is slow, not stuck.
    stuck = [rank for rank in laggards if min(longest, busy[rank].still) > limit_of[rank][0]]
    if not stuck:
        return None
    _, setting = limit_of[stuck[0]]
    text = (
        f"the other ranks have been waiting for {longest:.0f} s ({setting}) for {_names(ranks, stuck)}"
        f"{_seen(heard, stuck)}. If this is expected, set it higher. {GO_ON}"
    )
    return Diagnosis(tuple(stuck), text)


def _all_stuck(beats: Mapping[int, Beat], what: str, seconds: float, setting: str) -> Diagnosis:
    places = "; ".join(
        f"rank {rank} after step {beat.step}, {beat.place}" for rank, beat in sorted(beats.items())[:8]
    )
    text = (
        f"all ranks have {what} for {seconds:.0f} s ({setting}): a connection between two of them is broken, "
        f"a device is stuck, or they wait in different places: {places}. {GO_ON}"
    )
    return Diagnosis((), text)


def _names(ranks: Sequence[Identity], some: Sequence[int]) -> str:
    if len(some) == 1:
        return str(ranks[some[0]])
    by_host: dict[str, list[str]] = {}
    for rank in some:
        by_host.setdefault(ranks[rank].host, []).append(str(rank))
    return " and ".join(f"ranks {', '.join(those)} on {host}" for host, those in by_host.items())


def _plural(some: Sequence[int], one: str, many: str) -> str:
    return one if len(some) == 1 else many


def _seen(heard: Mapping[int, Heard], some: Sequence[int]) -> str:
    where = _where(heard, some[0])
    who = "" if len(some) == 1 else f"rank {some[0]} "
    return where and f", {who}last seen{where}"


def _where(heard: Mapping[int, Heard], rank: int) -> str:
    one = heard.get(rank)
    if one is None or one.beat is None:
        return ""
    beat = one.beat
    doing = "waiting for other ranks" if beat.waiting else beat.phase
    return f" after step {beat.step}, {doing}{f' ({beat.place})' if beat.place else ''}"
