"""The implementations that a run uses: proven before the model is built, and the same on all ranks."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from socket import gethostname
from typing import Any

import torch

from maris_fast.config import TrainingSettings
from maris_fast.data_shards.stream import CacheReader
from maris_fast.kernels.choice import Operation, prove, text
from maris_fast.kernels.choice.table import Found, of_device
from maris_fast.model.kinds import of_model
from maris_fast.system.launchers import place_of
from maris_fast.system.terminal import say
from maris_fast.train.ranks import Ranks

Taken = dict[str, dict[str, str | None]]
"""{operation: {kind: implementation}}; None: none was correct, so calls use the safe one."""
Everything = dict[str, dict[str, Found]]


def settle(settings: TrainingSettings, ranks: Ranks, reader: CacheReader, dtype: torch.dtype) -> Taken:
    """Proves this run's kinds of calls that have no certificate, on CUDA; returns what all ranks then use."""
    if ranks.device.type != "cuda":
        return {}
    return agree(ranks, kinds_of(settings, reader, dtype))


def kinds_of(
    settings: TrainingSettings, reader: CacheReader, dtype: torch.dtype
) -> list[tuple[Operation, Any]]:
    """The calls of a run on the reader's grids and words, as (operation, kind)."""
    grids = {(int(h), int(w)) for h, w in reader.index.grids}
    return of_model(settings.model, dtype, grids, reader.manifest.encoders.text.max_words)


def agree(ranks: Ranks, wanted: Iterable[tuple[Operation, Any]]) -> Taken:
    """Proves on one rank per node, in a child process; then every rank uses the same implementations.

    Where nodes differ (other devices, other versions), the implementation of a kind is the one with the least
    total time over all nodes among those that were correct on each; rank 0 says what failed elsewhere. The
    other ranks wait as long as proofs make progress; each sign of it counts as a rank's own.
    """
    pairs = list(dict.fromkeys(wanted))
    leads = not place_of().local_rank
    told = say if ranks.first else (lambda _: None)
    own: Everything | None = None
    if leads:
        known = prove(pairs, ranks.device, told, alive=lambda: ranks.progress.at("starting", 0))
        own = {}
        for operation, kind in pairs:
            found = known.find(operation.name, text(kind))
            assert found is not None
            own.setdefault(operation.name, {})[text(kind)] = found
    ranks.meet()
    hosts, nodes = list[str](), list[Everything]()
    for host, node in ranks.gather((gethostname(), own)):
        if node is not None:
            hosts.append(host)
            nodes.append(node)
    agreed = {
        name: {kind: _on_all([node[name][kind] for node in nodes]) for kind in kinds}
        for name, kinds in nodes[0].items()
    }
    hashes = {operation.name: operation.sources_hash() for operation, _ in pairs}
    of_device(ranks.device).take(agreed, hashes)
    for line in _failed_elsewhere(hosts, nodes):
        told(line)
    lacking = sum(found["chosen"] is None for kinds in agreed.values() for found in kinds.values())
    if lacking:
        told(
            f"kernels: nothing is proven for {lacking} of {len(pairs)} kinds of calls, which take the safe "
            f"implementation; `maris-fast kernels prove --again`{', on every node' * (len(nodes) > 1)}, with "
            "the run's --config, tries them again"
        )
    return {name: {kind: found["chosen"] for kind, found in kinds.items()} for name, kinds in agreed.items()}


def _on_all(nodes: list[Found]) -> Found:
    """The results of all nodes for one kind, combined."""
    if len({node["chosen"] for node in nodes}) == 1:
        return nodes[0]
    times = {
        candidate: sum(node["results"][candidate]["ms"] for node in nodes)
        for candidate in nodes[0]["results"]
        if all("ms" in node["results"].get(candidate, {}) for node in nodes)
    }
    return {"chosen": min(times, key=times.__getitem__, default=None), "results": nodes[0]["results"]}


def _failed_elsewhere(hosts: Sequence[str], nodes: Sequence[Everything]) -> Iterator[str]:
    """Why other nodes do not take what was chosen on the first one: a line for each reason."""
    told: dict[tuple[str, frozenset[tuple[str, str]]], list[str]] = {}
    for host, node in zip(hosts[1:], nodes[1:], strict=True):
        reasons: dict[str, set[tuple[str, str]]] = {}
        for name, kinds in nodes[0].items():
            for kind, found in kinds.items():
                there = node[name][kind]["results"].get(
                    found["chosen"], {"reason": "it does not exist there"}
                )
                if found["chosen"] is not None and "reason" in there:
                    reasons.setdefault(there["reason"], set()).add((name, kind))
        for reason, lost in reasons.items():
            told.setdefault((reason, frozenset(lost)), []).append(host)
    for (reason, lost_there), on in told.items():
        candidates = dict.fromkeys(nodes[0][name][kind]["chosen"] for name, kind in sorted(lost_there))
        yield (
            f"kernels: {_some(candidates)} left out for {len(lost_there)} kinds of calls because of "
            f"{_some(on)}: {reason}"
        )


def _some(names: Collection[str], most: int = 4) -> str:
    more = len(names) - most
    return ", ".join(islice(names, most)) + (f" and {more} others" if more > 0 else "")


def differing(former: Path, table: Mapping[str, Any]) -> list[str]:
    """Kinds for which a run's ``environment.json`` names other implementations than it would use now."""
    try:
        before = json.loads(former.read_text()).get("kernels", {})
    except (OSError, ValueError, AttributeError):
        return []
    return [
        f"{name} {kind}: {before[name][kind]} before, {taken} now"
        for name, kinds in table.items()
        for kind, taken in kinds.items()
        if name in before and kind in before[name] and before[name][kind] != taken
    ]
