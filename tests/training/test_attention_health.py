"""The optional health records of mutual-aware attention: correct numbers, and each fault reported once."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from maris_fast.config import ModelSettings
from maris_fast.data_shards.cache import write_cache
from maris_fast.data_shards.stream import Batch
from maris_fast.train.attention_health import SHARES, Warnings, attention_sums, numbers
from tests.data.cache_dataset import default_records, tiny_settings, write_dataset
from tests.model.by_hand import inputs, make
from tests.training.board_files import curve
from tests.training.processes import MAIN, TINY, records, run, torchrun

ON = "run.attention_health=true"
ALIKE = (ON, "model.keep=all", "model.ma_blocks=3", "model.channels=64")


pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Real runs of three steps on grids of up to 24 x 24: their records, and what they printed."""
    folder = tmp_path_factory.mktemp("health")
    images = default_records()
    dataset = write_dataset(folder / "dataset", {"train": images, "val": images[2:4]})
    encoders = tiny_settings().encoders
    larger = encoders.model_copy(update={"sam": encoders.sam.model_copy(update={"image_size": 384})})
    write_cache(dataset, folder / "cache", tiny_settings(encoders=larger.model_dump()), progress=False)
    commands = {
        "alike": ((sys.executable,), ALIKE),
        "alike, not asked": ((sys.executable,), ALIKE[1:]),
        "closed": (torchrun(), (ON, "model.tau=0.9", "model.channels=16")),
    }
    found = {}
    for name, (launcher, changes) in commands.items():
        out = folder / name.replace(", ", "-").replace(" ", "-")
        command = (*launcher, MAIN, "--config", TINY)
        fixed = (f"data.cache={folder / 'cache'}", f"run.folder={out}", "schedule.max_steps=3")
        done = run(*command, *fixed, "run.evaluate_every=null", *changes)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        found[name] = {"records": records(out), "said": done.stdout, "warned": done.stderr, "folder": out}
    return found


def of_kind(ran: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [record for record in ran["records"] if record["kind"] == kind]


def test_asking_adds_a_record_a_log_step_and_changes_nothing_else(runs: dict[str, dict[str, Any]]) -> None:
    asked, not_asked = runs["alike"], runs["alike, not asked"]
    assert [record["step"] for record in of_kind(asked, "attention")] == [1, 2, 3]
    assert of_kind(not_asked, "attention") == []
    for name in ("loss", "gradient_norm", "oIoU"):
        pairs = zip(of_kind(asked, "train"), of_kind(not_asked, "train"), strict=True)
        assert all(one[name] == other[name] for one, other in pairs)
    scores = [of_kind(ran, "evaluation")[-1]["oIoU"] for ran in (asked, not_asked)]
    assert scores[0] == scores[1]


def test_words_that_become_alike_are_reported_once_with_the_setting(runs: dict[str, dict[str, Any]]) -> None:
    ran = runs["alike"]
    texts = [text for record in of_kind(ran, "attention") for text in record.get("warnings", ())]
    assert len(texts) == 1
    assert "the words of an expression alike" in texts[0]
    assert texts[0].endswith("set model.language_norm to columns")
    assert ran["warned"].count("words of an expression alike") == 1
    alike = [record for record in of_kind(ran, "attention") if record["block_3/cosine_after"] > 0.8]
    assert alike
    for record in of_kind(ran, "attention"):
        assert record["block_1/kept_pairs"] == 1
        assert record["block_1/empty_pixels"] == record["block_1/empty_words"] == 0
        assert record["block_1/gathered"] > 10


def test_a_gate_that_closes_is_reported_once_by_two_ranks_with_the_setting(
    runs: dict[str, dict[str, Any]],
) -> None:
    ran = runs["closed"]
    told = of_kind(ran, "attention")
    texts = [text for record in told for text in record.get("warnings", ())]
    assert len(texts) == 1
    assert texts[0].startswith("the gate of eq. 4 closes in MA block 1: ")
    assert "set model.empty_rows to all, model.tau lower, or model.keep to all" in texts[0]
    assert (ran["said"] + ran["warned"]).count("the gate of eq. 4 closes") == 1
    assert all(record["block_1/empty_pixels"] > 0.3 for record in told)


def test_the_numbers_are_curves_a_log_line_and_figures_of_the_report(runs: dict[str, dict[str, Any]]) -> None:
    ran = runs["closed"]
    for name in SHARES:
        assert curve(ran["folder"] / "tensorboard", f"attention/block_2/{name}") == [1, 2, 3]
    line = next(line for line in ran["said"].splitlines() if line.startswith("attn 2/3"))
    second = of_kind(ran, "attention")[1]
    assert (
        f"block 1 (kept {second['block_1/kept_pairs']:.1%} empty {second['block_1/empty_pixels']:.1%}/"
        in line
    )
    page = (ran["folder"] / "report.html").read_text()
    assert "Words and gate" in page
    assert "Pixels that keep no word, %" in page
    assert "the gate of eq. 4 closes in MA block 1" in page
    assert "Words and gate" not in (runs["alike, not asked"]["folder"] / "report.html").read_text()


@pytest.mark.parametrize("language_norm", ["none", "columns"])
@pytest.mark.parametrize(
    ("empty_rows", "visual_center"), [("none", "none"), ("all", "none"), ("all", "pixels")]
)
def test_each_number_counted_one_pair_at_a_time(
    language_norm: str, empty_rows: str, visual_center: str
) -> None:
    torch.manual_seed(0)
    reading = {"language_norm": language_norm, "empty_rows": empty_rows, "visual_center": visual_center}
    model = make(tau=0.65, **reading).float()
    features, words, word_mask, offsets = inputs(3, 0, 1)
    features, words = tuple(level.float() for level in features), words.float()
    weights = torch.tensor([1.0, 1, 0, 1])  # the third is padding
    batch = Batch(features, words, word_mask, offsets, torch.empty(0), weights, 3, describe=tuple)
    got = numbers(attention_sums(model, batch))

    image_of, block = (0, 0, 0, 2), model.ma_blocks[0]
    kept, empty_pixels, empty_words, scores, lengths, gathers, before, after = ([] for _ in range(8))
    with torch.no_grad():
        model.feature_enhancement.train()
        f_v = model.feature_enhancement(features).flatten(1, 2)
        z_l = block.W_l(words)
        f_val = block(f_v, words, word_mask, torch.tensor(0.65), offsets)[1]
        for e in (0, 1, 3):
            tokens, real = block.W_v(f_v)[image_of[e]], [j for j in range(4) if word_mask[e, j]]
            if visual_center == "pixels":
                tokens = tokens - sum(tokens) / len(tokens)
            gate = [[float(z @ z_l[e, j]) >= math.log(0.65 / 0.35) for j in real] for z in tokens]
            kept += [pair for row in gate for pair in row]
            scores += [abs(float(z @ z_l[e, j])) for z in tokens for j in real]
            empty_pixels += [not any(row) for row in gate]
            empty_words += [not any(row[k] for row in gate) for k in range(len(real))]
            A = torch.zeros(len(tokens), len(real))
            for i, row in enumerate(gate):
                look = [k for k in range(len(real)) if row[k] or (empty_rows == "all" and not any(row))]
                if look:
                    A[i, look] = torch.softmax(torch.stack([tokens[i] @ z_l[e, real[k]] for k in look]), 0)
            for k, j in enumerate(real):
                gathered = sum(A[i, k] * tokens[i] for i in range(len(tokens)))
                if language_norm == "columns" and A[:, k].sum() > 0:
                    gathered = gathered / A[:, k].sum()
                gathers.append(float(torch.as_tensor(gathered).norm()))
                lengths.append(float(z_l[e, j].norm()))
            couples = [(j, k) for j in real for k in real if j != k]
            before += [float(F.cosine_similarity(z_l[e, j], z_l[e, k], dim=0)) for j, k in couples]
            after += [float(F.cosine_similarity(f_val[e, j], f_val[e, k], dim=0)) for j, k in couples]
    needed = {
        "kept_pairs": sum(kept) / len(kept),
        "empty_pixels": sum(empty_pixels) / len(empty_pixels),
        "empty_words": sum(empty_words) / len(empty_words),
        "score": sum(scores) / len(scores),
        "gathered": sum(gathers) / sum(lengths),
        "cosine_before": sum(before) / len(before),
        "cosine_after": sum(after) / len(after),
    }
    assert 0 < needed["kept_pairs"] < 1
    assert needed["empty_pixels"] > 0
    assert {name: got[f"block_1/{name}"] for name in SHARES} == pytest.approx(needed, rel=1e-4, abs=1e-5)
    assert {name.partition("/")[0] for name in got} == {"block_1", "block_2"}


def values(place: int, **of: float) -> dict[str, float]:
    return {f"block_{place}/{name}": value for name, value in of.items()}


def test_a_warning_names_a_setting_that_is_not_set_already() -> None:
    alike = values(2, cosine_before=0.4, cosine_after=0.9, gathered=12)
    closed = values(1, empty_pixels=0.1, empty_words=0.6)
    divided = Warnings(ModelSettings(language_norm="columns", empty_rows="all", keep="irrelevant"))
    second, first = divided.new(alike | closed)
    assert "MA block 2" in first
    assert first.endswith("set model.visual_center to pixels")
    assert second.endswith("60% of the words no pixel; set model.tau higher, or model.keep to all")
    assert divided.new(alike | closed) == []
    centered = Warnings(ModelSettings(language_norm="columns", visual_center="pixels"))
    assert centered.new(alike)[0].endswith("set model.ma_blocks to fewer")


def test_words_that_came_alike_and_a_gate_half_open_give_no_warning() -> None:
    warnings = Warnings(ModelSettings())
    assert warnings.new(values(1, cosine_before=0.85, cosine_after=0.9, empty_pixels=0.2)) == []
