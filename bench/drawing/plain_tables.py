"""Tables of the documents for results that have no plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from maris_fast.ablation.comparison import HEAD, conditions_told, sections, verdicts
from maris_fast.ablation.record import Record
from maris_fast.bench.drawing.markdown import commits_told, table
from maris_fast.bench.reading_names import BUSY, COLD, OURS, RAW_TWO, WARM
from maris_fast.bench.results import Row, Suite
from maris_fast.data_shards.synthetic.phrasing import KINDS

GPUS_GB = (8, 24, 40, 80)
EACH = 7
"""Assumed expressions of every image of a step; RefCOCO's mean is 7.1, but a step's groups are smaller."""
OVERHEAD = 1.5
"""Assumed factor for what the backward and the allocator take beyond what is saved."""
RESERVED_GB = 1.5
"""Assumed: CUDA's context, kernels' workspaces and two batches on the device."""


def quickstart_block(result: dict[str, Any], others: Mapping[int, dict[str, Any]], picture: str) -> str:
    """The scores by kind, as written and exchanged, with their conditions and the pictures.

    ``others``: results of the same with other seeds, by seed.
    """
    written, exchanged = result["scores"]["as written"], result["scores"]["exchanged"]
    minutes = sum(result["seconds"].values()) / 60
    columns = {"all": written, **{kind: written["kinds"][kind] for kind in KINDS}}
    other = {"all": exchanged, **exchanged["kinds"]}
    rows = [
        _scores("as written", [row["oIoU"] for row in columns.values()]),
        _scores("expressions exchanged", [other[kind]["oIoU"] for kind in columns]),
        _scores("Pr@50, as written", [row["Pr@50"] for row in columns.values()]),
    ]
    lines = [
        *table(["oIoU on held-out scenes", *columns], rows),
        "",
        "The second row gives the model, for each object, a sentence about another object of the same scene: "
        "a model that reads must fail there.",
        "",
        *([_of_seeds({0: result, **others}), ""] if others else []),
        f"![Held-out scenes, two of each kind: prediction pink, truth green]({picture})",
        "",
        f"({conditions(result['environment'])}, {result['date']}; {minutes:.1f} minutes, "
        f"of which {result['seconds']['train'] / 60:.1f} train, without installation.)",
    ]
    return "\n".join(lines)


def _of_seeds(results: Mapping[int, dict[str, Any]]) -> str:
    """oIoU of each seed as written and exchanged, and the commits measured."""
    told = []
    for name in ("as written", "exchanged"):
        values = [result["scores"][name]["oIoU"] for result in results.values()]
        told.append(f"{', '.join(f'{value:.3f}' for value in values)} {name}, mean {mean(values):.3f}")
    commits = commits_told(result["environment"]["commit"] for result in results.values())
    seeds = ", ".join(map(str, results))
    return f"oIoU with `run.seed` {seeds}: {'; '.join(told)} ({commits})."


def conditions(environment: dict[str, Any]) -> str:
    """Device, versions and commit of a training run."""
    packages, commit = environment["packages"], str(environment["commit"])[:12]
    return (
        f"{environment['device']}, {environment['processor_cores']} cores, "
        f"{environment['ranks']} rank{'s' if environment['ranks'] > 1 else ''}, "
        f"torch {packages['torch']}, deepspeed {packages['deepspeed']}, commit {commit}"
    )


def _scores(name: str, values: Sequence[float]) -> list[str]:
    return [name, *(f"{value:.3f}" for value in values)]


def ablations_block(records: list[Record]) -> str:
    """For each device Tables 2-5 and the other rows, the verdicts over several seeds, and the conditions."""
    parts = []
    for record in records:
        for section in sections({name: record.scores(name) for name in record.variants}):
            parts += [f"**{section.title}**", "", *table(HEAD, section.cells()), ""]
        parts += [*(f"- {line}" for line in verdicts(record)), ""]
        parts += [f"({'; '.join(conditions_told(record))}.)", ""]
    return "\n".join(parts).rstrip()


def reading_block(suite: Suite) -> str:
    """A table for each situation, the ways left out of it, and the conditions."""
    damage = {row["way"]: [row["flipped_byte"], row["cut_file"]] for row in suite.rows if "cut_file" in row}
    columns = {
        WARM: {f"{RAW_TWO} = 1": "to_raw_two", "stock = 1": "to_stock"},
        COLD: {f"{RAW_TWO} = 1": "to_raw_two", "stock = 1": "to_stock"},
        BUSY: {"of the step's pace": "of_pace", "stock = 1": "to_stock"},
    }
    parts: list[str] = []
    rounds: list[str] = []
    for situation, more in columns.items():
        if not (timed := _measured(suite, situation)):
            continue
        rounds.append(f"{situation} {timed[0]['rounds']} (load average {timed[0]['load_average'][1]:.1f})")
        head = [situation, "GB/s", "ours = 1", *more]
        damaged = bool(damage) and situation == WARM
        head += ["a flipped byte", "a cut file"] if damaged else []
        lines = []
        for row in _measured(suite, situation):
            cells = [row["way"], *(f"{row[name]:.2f}" for name in ("gb_per_s", "to_ours", *more.values()))]
            lines.append(cells + (damage[row["way"]] if damaged else []))
        parts += [*table(head, lines), ""]
    left_out = [row for row in suite.rows if "left_out" in row]
    parts += [f"- Left out: {row['way']}{_where(row)}: {row['left_out']}" for row in left_out]
    busy = _measured(suite, BUSY)
    pace = f"the busy consumer's step keeps a core busy for {1000 * busy[0]['step_s']:g} ms; " if busy else ""
    start = next(row for row in suite.rows if "open_s" in row)
    parts += [""] * bool(left_out)
    parts.append(
        f"(Medians of ratios within each round. Rounds: {', '.join(rounds)}. "
        f"{_measured(suite, WARM)[0]['images']} groups of ViT-H's size, int8; ours = 1 is `{OURS}`; "
        f"{pace}{_machine(suite)}, {_version(suite)}. "
        f"Start-up on {start['images']:,} images: {start['open_s'] + start['plan_s']:.1f} s.)"
    )
    return "\n".join(parts)


def nearest_peer_block(suite: Suite) -> str:
    """How fast the fastest other reader is in each situation, as a ratio to ours."""
    told = []
    for situation, place in ((WARM, f"from a {WARM}"), (COLD, f"from a {COLD}"), (BUSY, BUSY)):
        peers = [row for row in _measured(suite, situation) if not row["way"].startswith(("ours", "raw"))]
        nearest = max(peers, key=lambda row: row["to_ours"])
        without = "".join(f"; left out: {one}" for one in _left_out_peers(suite, situation))
        told.append(f"{nearest['to_ours']:.2f} {place} ({nearest['way']}{without})")
    return (
        f"Read throughput of the fastest other reader, ours = 1: {', '.join(told)}. All readers: "
        "`data_shards/stream/README.md`."
    )


def _measured(suite: Suite, situation: str) -> list[Row]:
    return [row for row in suite.rows if row.get("situation") == situation and "gb_per_s" in row]


def _left_out_peers(suite: Suite, situation: str) -> list[str]:
    """Peers of which no way was measured in a situation, each with the reason."""
    measured = {_peer(row) for row in _measured(suite, situation)}
    reasons = {
        _peer(row): row["left_out"]
        for row in suite.rows
        if "left_out" in row and row.get("situation", situation) == situation
    }
    return [f"{peer}, {reason}" for peer, reason in reasons.items() if peer not in measured]


def _peer(row: Row) -> str:
    return str(row["way"]).partition(",")[0]


def _where(row: Row) -> str:
    return f", {row['situation']}" if "situation" in row else ""


def far_reading_block(suite: Suite) -> str:
    """A table of web addresses against the local disk, and the conditions."""
    rows = [row for row in suite.rows if "gb_per_s" in row]
    lines = [[row["way"], f"{row['gb_per_s']:.2f}", f"{row['to_local']:.2f}"] for row in rows]
    one = rows[0]
    return "\n".join(
        [
            *table(["", "GB/s", "local disk = 1"], lines),
            "",
            f"(Medians of ratios within each of {one['rounds']} rounds, {one['images']} groups of ViT-H's "
            "size, int8, checksums of all, warm page cache; the server is a process on the same cores; "
            f"{_busy(suite, one['load_average'][1])}.)",
        ]
    )


def writing_block(suite: Suite) -> str:
    """A table from pictures on disk to shards, one of the shard writer alone, and the conditions."""
    encoding = [row for row in suite.rows if "images_per_s" in row]
    lines = [
        [row["way"], f"{row['images_per_s']:.2f}", f"{row['to_first']:.2f}", f"{row['to_before']:.2f}"]
        for row in encoding
    ]
    parts = table(["from pictures on disk", "images/s", "first = 1", "row before = 1"], lines)
    lines = [
        [row["way"], f"{row['gb_per_s']:.2f}", f"{row['to_raw']:.2f}"]
        for row in suite.rows
        if "gb_per_s" in row
    ]
    parts += ["", *table(["from features in memory", "GB/s", "raw write = 1"], lines), ""]
    first = encoding[0]
    parts.append(
        f"(Medians of ratios within each of {first['rounds']} rounds, {first['images']} pictures, "
        f"{first['arch']} at {first['image_size']} px with random weights; shards of ViT-H's size, "
        f"with fsync; {_busy(suite, first['load_average'][1])}.)"
    )
    return "\n".join(parts)


def many_images_block(suite: Suite) -> str:
    """Memory and processor time of each way, one column per number of images, and the conditions."""
    sizes = sorted({row["images"] for row in suite.rows})
    of = {(row["way"], row["images"]): row for row in suite.rows}
    lines = []
    for way in dict.fromkeys(row["way"] for row in suite.rows):
        told = (of.get((way, size)) for size in sizes)
        cells = (f"{row['peak_mb']:,.0f} MiB, {row['cpu_s']:,.0f} s" if row else "" for row in told)
        lines.append([way, *cells])
    here, busiest = suite.environment, max(row["load"] for row in suite.rows)
    return "\n".join(
        [
            *table(["largest resident memory, processor time", *(f"{n:,} images" for n in sizes)], lines),
            "",
            f"({here['device']}, {here['processor_cores']} cores, load average up to {busiest:.1f}, which "
            f"lengthens processor time too; commit {str(suite.commit)[:12]}, {suite.date[:10]}.)",
        ]
    )


def evaluation_block(suite: Suite) -> str:
    """CPU time per expression, and the conditions."""
    (row,) = suite.rows
    ways = {
        "MARIS's protocol, without resizing": "ms_without_resize",
        "MARIS's protocol": "ms_with_resize",
        "all protocols": "ms_all_protocols",
    }
    lines = [[way, f"{row[key]:.2f} ms"] for way, key in ways.items()]
    conditions = f"(One thread, least of {row['rounds']} rounds; {_busy(suite, row['load_average'])}.)"
    return "\n".join([*table(["what is computed", "CPU time of an expression"], lines), "", conditions])


def interval_coverage_block(suite: Suite) -> str:
    """How often the intervals of each way contain the true score, their mean width, and the conditions."""
    scores = list(suite.rows[0]["held"])
    lines = [
        [
            row["model"],
            str(row["images"]),
            row["way"],
            *(f"{row['held'][score]:.1%} ({row['width'][score]:.3f})" for score in scores),
        ]
        for row in suite.rows
    ]
    first = suite.rows[0]
    conditions = (
        f"({first['cases']:,} test sets of each size, {first['resamples']:,} resamples each; "
        f"{commits_told([suite.commit])}, {suite.date[:10]}.)"
    )
    return "\n".join([*table(["model", "images", "interval", *scores], lines), "", conditions])


def look_alikes_block(suite: Suite) -> str:
    """Bits in which copies differ from their originals, and the smallest distance of two photographs."""
    lines = [
        [
            f"{'*not detected:* ' if row['kind'] == 'moved' else ''}{row['compared']}",
            str(row["median"]),
            str(row["largest"]),
        ]
        for row in suite.rows
        if row["kind"] != "other"
    ]
    (others,) = (row for row in suite.rows if row["kind"] == "other")
    told = (
        f"Two photographs differ in {others['least']} bits at least, in {others['median']} in the middle of "
        f"{others['pairs']:,} pairs. ({suite.rows[0]['pairs']} photographs; {commits_told([suite.commit])}, "
        f"{suite.date[:10]}.)"
    )
    return "\n".join([*table(["copy", "median", "largest"], lines), "", told])


def _busy(suite: Suite, load: float) -> str:
    """The device, the machine's load and the commit of a measurement."""
    return f"{_machine(suite)}, load average {load:.1f}, {_version(suite)}"


def _machine(suite: Suite) -> str:
    return f"{suite.environment['device']}, {suite.environment['processor_cores']} cores"


def _version(suite: Suite) -> str:
    return f"commit {str(suite.commit)[:12]}, {suite.date[:10]}"


def step_memory_block(suite: Suite) -> str:
    """The counts, and the number of expressions that fit into memory according to them."""
    counts, room = [], []
    for row in suite.rows:
        image, expression = row["image_bytes"], row["expression_bytes"]
        name = f"{row['heads']} heads"
        counts.append([name, *(f"{n / 2**20:.0f} MiB" for n in (row["state_bytes"], image, expression))])
        each = OVERHEAD * (expression + image / EACH)
        fits = [(gb * 1e9 - RESERVED_GB * 1e9 - row["state_bytes"]) / each for gb in GPUS_GB]
        room.append([name, *(str(int(n) // 8 * 8) for n in fits)])
    lines = table(["kept for the backward", "weights and AdamW", "an image", "an expression"], counts)
    lines += ["", *table(["expressions of a rank's part that fit", *(f"{gb} GB" for gb in GPUS_GB)], room)]
    lines += ["", f"(First table: counted on a CPU, {suite.date[:10]}, commit {str(suite.commit)[:12]}, "]
    lines[-1] += (
        f"torch {suite.environment['packages']['torch']}. Second: arithmetic from it, with {OVERHEAD} times "
        f"what is kept, {RESERVED_GB} GB besides and {EACH} expressions of each image, all assumed; not "
        "tried on a GPU.)"
    )
    return "\n".join(lines)
