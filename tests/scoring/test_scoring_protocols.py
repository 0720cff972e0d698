"""Scores of each protocol on cases computed by hand: where protocols differ and where they agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import maris_fast
from maris_fast import scoring
from maris_fast.errors import ConfigError
from maris_fast.scoring import PROTOCOLS, Rows, named
from maris_fast.scoring.comparing import Comparer
from maris_fast.scoring.protocols import CRIS, LISA, MARIS, RELA, VLT, Protocol
from maris_fast.scoring.tables import spread
from tests.scoring.cases import (
    add,
    add_logits,
    all_rows,
    band,
    box,
    count_of,
    sample_of,
    score_of,
    under_all,
)

EVERYBODY = set(PROTOCOLS)
AT_OWN_SIZE = {"maris", "lisa", "phrasecut"}


def line(pixels: int, of: int = 1000) -> np.ndarray:
    return np.arange(of)[None] < pixels


def counted(protocol: Protocol, intersection: int, union: int) -> bool:
    """Whether an IoU of exactly ``intersection`` / ``union`` counts for Pr@X at that X."""
    iou = count_of(protocol, line(intersection), line(union)).iou
    level = min(protocol.levels, key=lambda level: abs(level - intersection / union))
    return bool(protocol.reaches(np.array(iou), level))


def test_an_iou_of_just_one_half_counts_where_a_script_says_at_least_or_smooths() -> None:
    half = {name for name, protocol in PROTOCOLS.items() if counted(protocol, 1, 2)}
    # VLT's script says >, but (1 + 1e-10) / (2 + 1e-10) is more than .5.
    assert half == {"lavt", "rela", "vlt"}


def test_an_iou_of_just_seven_tenths_counts_in_cris_whose_levels_are_float32() -> None:
    assert counted(CRIS, 700, 1000)
    assert not counted(CRIS, 800, 1000)
    assert not counted(MARIS, 700, 1000)


def test_two_empty_masks_are_a_success_a_failure_or_no_target_found() -> None:
    rows = all_rows()
    nothing = box(48, 48, 0, 0, 0, 0)
    add(rows, nothing, nothing)
    assert score_of(rows, "mIoU") == {
        "maris": 1,
        "lavt": 0,
        "cris": 0,
        "cris-val": 0,
        "rela": 1,
        "lisa": 1,
        "vlt": 1,
        "phrasecut": 0,
    }
    assert under_all(rows)["rela"]["N-acc"] == 1


def test_pixels_that_two_polygons_cover_are_dropped_by_lavt_and_lisa() -> None:
    rows = all_rows()
    truth = box(480, 480, 0, 0, 480, 240)
    add(rows, truth, truth, twice=box(480, 480, 0, 0, 480, 60))
    scores = score_of(rows, "oIoU")
    # 480 x 240 pixels predicted, a quarter of which are dropped from the ground truth.
    assert scores["lavt"] == scores["lisa"] == 0.75
    assert scores["maris"] == scores["rela"] == scores["phrasecut"] == 1
    assert min(scores["cris"], scores["vlt"]) > 0.97


def test_lisa_is_what_histograms_of_two_bins_say_of_summed_polygons() -> None:
    random = torch.Generator().manual_seed(0)
    for _ in range(20):
        truth = torch.randint(0, 4, (30, 40), generator=random).float()
        predicted = torch.randint(0, 2, (30, 40), generator=random).float()
        same, output, target = (
            torch.histc(values, bins=2, min=0, max=1)[1].item()
            for values in (predicted[predicted == truth], predicted, truth)
        )
        ours = count_of(LISA, predicted.numpy() > 0, truth.numpy() == 1)
        assert (ours.intersection, ours.union) == (same, output + target - same)


def test_a_squashed_canvas_weighs_a_flat_image_as_much_as_a_square_one() -> None:
    rows = all_rows()
    left = box(480, 480, 0, 0, 480, 240)
    add(rows, left, left, image_id=1)
    flat = box(120, 480, 0, 0, 120, 240)
    add(rows, flat, ~flat, image_id=2)
    scores = score_of(rows, "oIoU")
    # ΣI / ΣU: half of the square image counts in both, the whole flat image in U alone.
    for name in AT_OWN_SIZE:
        assert scores[name] == 115_200 / (115_200 + 57_600)
    assert scores["lavt"] == scores["rela"] == 0.5 / (0.5 + 1)


def test_a_threshold_of_35_percent_makes_a_band_a_pixel_wider_on_each_side() -> None:
    rows = all_rows()
    truth = band(416, 416, 100, 140)
    add(rows, truth, truth)
    scores = score_of(rows, "oIoU")
    # 4 x 4 pixels per logit: between a 1 and a 0, the first pixel beyond the middle is .375 with bilinear
    # and .360 with cubic interpolation.
    assert scores["vlt"] == scores["cris"] == 40 / 42
    assert {scores[name] for name in AT_OWN_SIZE} == {1}


def test_a_probability_of_40_percent_is_predicted_by_cris_and_vlt_alone() -> None:
    everything, rows = sample_of(box(416, 416, 0, 0, 416, 416)), all_rows()
    add_logits(rows, torch.full((1, *everything.geometry.mask_size), 0.4).logit(), everything)
    found = {name for name, iou in score_of(rows, "oIoU").items() if iou == 1}
    assert found == {"cris", "cris-val", "vlt"}
    assert {iou for name, iou in score_of(rows, "oIoU").items() if name not in found} == {0}


def test_only_cris_validation_takes_the_first_sentence_of_a_ref_alone() -> None:
    rows = all_rows()
    whole, nothing = box(48, 48, 0, 0, 48, 48), box(48, 48, 0, 0, 0, 0)
    add(rows, whole, whole, sent_id=1, first=True)
    add(rows, nothing, whole, sent_id=2, first=False)
    assert {name: scores["expressions"] for name, scores in under_all(rows).items()} == {
        name: 1 if name == "cris-val" else 2 for name in EVERYBODY
    }
    scores = score_of(rows, "mIoU")
    assert scores.pop("cris-val") == pytest.approx(1)
    assert list(scores.values()) == pytest.approx([0.5] * len(scores))


def test_rela_scores_expressions_that_mean_nothing_apart() -> None:
    rows = all_rows()
    nothing = box(480, 480, 0, 0, 0, 0)
    some, other = band(480, 480, 0, 100), band(480, 480, 200, 400)
    add(
        rows, some, nothing, sent_id=1, no_target=True
    )  # a correct "no target": 1, and no pixel of its mask counts
    add(rows, some, nothing, sent_id=2, no_target=False)  # missed: 0, its pixels count in U
    add(rows, some, other, sent_id=3, no_target=True)  # a wrong "no target": I = 0, the mask stays in U
    add(rows, other, other, sent_id=4, no_target=False)
    rela = under_all(rows)["rela"]
    assert rela["prints"] == {
        "gIoU": 2 / 4,
        "cIoU": 200 / (0 + 100 + 300 + 200),
        "T_acc": 1 / 2,
        "N_acc": 1 / 2,
        "Pr@0.7": 1 / 2,
        "Pr@0.8": 1 / 2,
        "Pr@0.9": 1 / 2,
    }
    # If "no target" is predicted, the other protocols get an empty mask.
    assert under_all(rows)["maris"]["oIoU"] == 200 / (0 + 100 + 200 + 200)
    assert under_all(rows)["maris"]["Pr@70"] == 2 / 4
    assert "N-acc" not in under_all(rows)["maris"]


def test_a_model_without_a_no_target_output_says_so_by_an_empty_mask() -> None:
    nothing, some = box(48, 48, 0, 0, 0, 0), box(48, 48, 0, 0, 8, 8)
    assert count_of(RELA, nothing, nothing).iou == 1
    assert count_of(RELA, some, nothing).iou == 0
    assert count_of(RELA, nothing, nothing, False).iou == 0


def test_an_object_too_small_for_the_canvas_is_not_an_expression_that_means_nothing() -> None:
    rows = all_rows()
    height, width = 8, 4096
    add(rows, box(height, width, 0, 0, 0, 0), box(height, width, 0, 0, 8, 1))
    assert under_all(rows)["rela"]["mIoU"] == 0
    assert not PROTOCOLS["rela"].canvas.truth(box(height, width, 0, 0, 8, 1)).any()


def test_where_nothing_lacks_a_target_rela_prints_0_and_t_acc_lies_in_its_interval() -> None:
    rows = all_rows()
    some, nothing = box(48, 48, 0, 0, 8, 8), box(48, 48, 0, 0, 0, 0)
    for image, predicted in enumerate((some, some, some, nothing)):
        add(rows, predicted, some, image_id=image)
    rela = scoring.whole(rows.table(), bootstrap=10)["protocols"]["rela"]
    assert (rela["prints"]["N_acc"], rela["prints"]["T_acc"]) == (0, 0)
    assert (rela["N-acc"], rela["T-acc"]) == (0, 0.75)
    low, high = rela["intervals"]["T-acc"]
    assert 0 < low <= rela["T-acc"] <= high < 1
    assert "N-acc" not in rela["intervals"]


@pytest.mark.parametrize("size", [(480, 480), (1024, 1024), (96, 64), (100, 332), (352, 64)])
def test_everybody_agrees_on_the_whole_image_and_on_a_miss(size: tuple[int, int]) -> None:
    whole, nothing = box(*size, 0, 0, *size), box(*size, 0, 0, 0, 0)
    found, missed = all_rows(), all_rows()
    add(found, whole, whole)
    add(missed, nothing, whole)
    # CRIS' cubic kernel, with zeros outside the square, loses a large image's corners: 3 of 1024² pixels.
    assert list(score_of(found, "mIoU").values()) == pytest.approx([1] * len(EVERYBODY), abs=4e-6)
    assert set(score_of(found, "Pr@90").values()) == {1}
    assert list(score_of(missed, "mIoU").values()) == pytest.approx([0] * len(EVERYBODY), abs=1e-9)


def test_a_perfect_mask_of_an_image_at_the_canvas_size_is_perfect() -> None:
    rows, side = all_rows(), 480
    for sent_id, corner in enumerate((0, 40, 200)):
        truth = band(side, side, corner, corner + 120)
        add(rows, truth, truth, sent_id=sent_id)
    for name in AT_OWN_SIZE | {"lavt", "rela"}:
        scores = under_all(rows)[name]
        assert scores["oIoU"] == 1
        assert scores["mIoU"] == pytest.approx(1, abs=1e-6)
        assert scores["Pr@90"] == 1


def test_protocols_of_one_canvas_agree_but_for_their_rules() -> None:
    random = np.random.default_rng(0)
    rows = all_rows()
    for sent_id in range(8):
        prediction, truth = (np.kron(random.random((20, 20)) > 0.5, np.ones((4, 4))) > 0 for _ in range(2))
        add(rows, prediction, truth, sent_id=sent_id)
    scores = score_of(rows, "oIoU")
    assert len({scores[name] for name in AT_OWN_SIZE}) == 1
    assert len({scores["cris"], scores["maris"], scores["vlt"]}) > 1


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS.keys())
def test_a_protocol_prints_scores_that_it_has_and_its_levels(protocol: Protocol) -> None:
    rows = Rows([protocol, LISA])
    some = band(48, 48, 8, 16)
    add(rows, some, some)
    add(rows, some, ~some, image_id=2)
    add(rows, some, box(48, 48, 0, 0, 0, 0), image_id=3)
    scores = under_all(rows)[protocol.name]
    assert scores["prints"] == {theirs: scores[ours] for theirs, ours in protocol.prints.items()}
    assert scores["minus maris"]["mIoU"] == pytest.approx(scores["mIoU"] - 1 / 3)


def test_vlt_prints_ten_levels_and_cris_five() -> None:
    assert [name for name in VLT.prints if name.startswith("prec")] == [
        f"prec@{level / 100:.2f}" for level in range(50, 100, 5)
    ]
    assert list(CRIS.prints) == ["IoU", "Pr@50", "Pr@60", "Pr@70", "Pr@80", "Pr@90"]


def test_rela_compares_at_480_pixels_as_its_released_configurations_say() -> None:
    rows = all_rows()
    # At 480 every second column of the truth is dropped, so a comb of single columns is all or nothing.
    comb = np.zeros((960, 960), dtype=bool)
    comb[:, 1::2] = True
    assert PROTOCOLS["rela"].canvas.truth(comb).shape == (480, 480)
    assert PROTOCOLS["rela"].canvas.truth(comb).all()
    add(rows, box(960, 960, 0, 0, 960, 960), comb)
    scores = score_of(rows, "oIoU")
    assert scores["rela"] == scores["lavt"] == 1
    assert scores["maris"] == 0.5


def test_the_spread_is_over_printed_numbers_of_every_sentence() -> None:
    rows = all_rows()
    truth = band(416, 416, 100, 140)
    add(rows, truth, truth, first=True)
    add(rows, band(416, 416, 0, 40), truth, sent_id=2, first=False)
    summary = scoring.whole(rows.table(), bootstrap=0)
    numbers = {name: row for name, row in summary["protocols"].items()}
    # CRIS and VLT print no oIoU, and theirs differs most (bands of 42 instead of 40 pixels).
    printed = [numbers[name]["oIoU"] for name in ("maris", "lavt", "rela", "lisa", "phrasecut")]
    assert spread(summary, "oIoU") == pytest.approx(max(printed) - min(printed), abs=1e-12)
    assert spread(summary, "oIoU") < max(printed) - numbers["cris"]["oIoU"]
    # The first sentence alone, which `cris-val` takes, is a hit.
    assert numbers["cris-val"]["mIoU"] > 0.9
    assert spread(summary, "mIoU") < 0.1
    assert spread(summary, "Pr@50") == 0


def test_names_are_put_in_the_tables_order_and_unknown_ones_are_refused() -> None:
    assert [one.name for one in named(["rela", "lavt", "rela"])] == ["lavt", "rela"]
    assert {one.name for one in named(["all"])} == EVERYBODY
    with pytest.raises(ConfigError, match="no protocol 'lvat'; there are maris, lavt, cris"):
        named(["lvat"])


def test_the_document_has_a_section_for_every_protocol() -> None:
    document = (Path(maris_fast.__file__).parents[1] / "docs" / "scoring.md").read_text()
    for name in EVERYBODY:
        assert f"`{name}`" in document, name


def test_masks_of_different_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected one size"):
        Comparer([MARIS]).of_mask(np.zeros((2, 3), bool), sample_of(np.zeros((3, 2), bool)))
