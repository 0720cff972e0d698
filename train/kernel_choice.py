"""The implementations that a run uses: proven before the model is built, and the same on all ranks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
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
    total time over all nodes among those that were correct on each. The other ranks wait as long as proofs
    make progress; each sign of it counts as a rank's own.
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
    nodes = [node for node in ranks.gather(own) if node is not None]
    agreed = {
        name: {kind: _on_all([node[name][kind] for node in nodes]) for kind in kinds}
        for name, kinds in nodes[0].items()
    }
    hashes = {operation.name: operation.sources_hash() for operation, _ in pairs}
    of_device(ranks.device).take(agreed, hashes)
    lacking = sum(found["chosen"] is None for kinds in agreed.values() for found in kinds.values())
    if lacking:
        told(
            f"kernels: nothing is proven for {lacking} of {len(pairs)} kinds of calls, which take the safe "
            "implementation; `maris-fast kernels prove --again`, with the run's --config, tries them again"
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
