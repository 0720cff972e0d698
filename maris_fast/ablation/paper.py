"""The numbers of the paper's Tables 1-6, and the configuration of each row of its ablations.

Scores are percent. "IoU" is oIoU, but see ``OTHER_IOU`` for two rows of Table 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from maris_fast.config.loading import PACKAGE, flat
from maris_fast.config.plain_yaml import read_yaml
from maris_fast.evaluation.scores_file import DataSplit

FRAGMENTS = PACKAGE / "train/configs/ablations"

METRICS = ("Pr@70", "Pr@80", "Pr@90", "oIoU")
"""The columns of Tables 2-5, as ``maris_fast.scoring`` names them."""


ABLATIONS_ON = DataSplit("refcoco", "unc", "val")
"""The data of Tables 2-5."""


@dataclass(frozen=True)
class Variant:
    """One configuration of the model: a fragment of ``train/configs/ablations``, or another ``file``.

    ``number`` is the paper's "Settings"; None where the paper has no such row, or no number for it.
    ``scores``: in the order of ``METRICS``, on RefCOCO val; None where the paper has none.
    """

    name: str
    title: str
    number: int | None = None
    scores: tuple[float | None, ...] = (None,) * len(METRICS)
    file: Path | None = None

    @property
    def fragment(self) -> Path:
        return self.file or FRAGMENTS / f"{self.name}.yaml"

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings in the fragment, flat, such as ``model.tau``."""
        return flat(read_yaml(self.fragment) or {})


OURS = "ours"
SAM = "sam"
WITHOUT_GATE = "without_mask"

VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("without_fe", "w/o FE", 1, (71.92, 64.51, 37.84, 69.19)),
        Variant("without_ma", "w/o MA", 2, (77.28, 69.03, 39.94, 74.32)),
        Variant("without_de", "w/o DE", 3, (78.82, 69.69, 40.04, 74.97)),
        Variant(OURS, "Ours", 4, (80.36, 72.11, 42.38, 76.20)),
        Variant("te", "TE (ReSTR)", 5, (78.62, 70.17, 39.77, 74.85)),
        Variant("sdf", "SDF (VLT)", 6, (78.91, 70.25, 40.22, 75.08)),
        Variant("bcm", "BCM (BRINet)", 7, (79.17, 70.54, 40.56, 75.20)),
        Variant("without_mask", "w/o attn. mask", 8, (80.08, 71.62, 41.71, 75.52)),
        Variant("with_toi", "w/ TOI-A", 9, (79.21, 71.07, 40.65, 75.40)),
        Variant("without_elp", "w/o ELP", 10, (78.55, 67.96, 38.62, 74.42)),
        Variant("vit_det", "VIT-DET", 11, (74.74, 66.79, 37.85, 71.55)),
        Variant(SAM, "SAM (Table 1)", None, (None, None, None, 57.23)),
        Variant("blocks_1", "1 MA block"),
        Variant("blocks_3", "3 MA blocks"),
        Variant("tau_01", "tau = 0.1"),
        Variant("tau_03", "tau = 0.3"),
        Variant("tau_07", "tau = 0.7"),
        Variant("pooled", "eq. 6 on pooled keys"),
        Variant("sums", "eqs. 3, 5 as printed"),
        Variant("as_printed", "eqs. 3-5 as printed"),
    )
}

ABLATION_TABLES = {
    2: ("without_fe", "without_ma", "without_de", OURS),
    3: ("te", "sdf", "bcm", "without_mask", OURS),
    4: ("with_toi", "without_elp", OURS),
    5: ("without_fe", "vit_det", OURS),
}
"""The rows of Tables 2-5 in the paper's order."""

CAPTIONS = {
    1: "Comparisons with previous state-of-the-art methods in terms of IoU.",
    2: "Each component of MARIS: Feature Enhancement (FE), Mutual-Aware Attention (MA), Mask Decoder (DE).",
    3: "MA and other methods: TE in ReSTR, SDF in VLT, BCM in BRINet, and without attention mask.",
    4: "Ablation study of the Mask Decoder.",
    5: "Ablation study of the Feature Enhancement.",
    6: "Generalization ability of different methods: IoU on PhraseCut.",
}

TABLE_1_COLUMNS = {
    "RefCOCO val": DataSplit("refcoco", "unc", "val"),
    "RefCOCO testA": DataSplit("refcoco", "unc", "testA"),
    "RefCOCO testB": DataSplit("refcoco", "unc", "testB"),
    "RefCOCO+ val": DataSplit("refcoco+", "unc", "val"),
    "RefCOCO+ testA": DataSplit("refcoco+", "unc", "testA"),
    "RefCOCO+ testB": DataSplit("refcoco+", "unc", "testB"),
    "G-Ref val (U)": DataSplit("refcocog", "umd", "val"),
    "G-Ref test (U)": DataSplit("refcocog", "umd", "test"),
    "G-Ref val (G)": DataSplit("refcocog", "google", "val"),
}

MARIS_ROW, MARIS_PR90_ROW, SAM_ROW = "MARIS (Ours)", "MARIS (Pr@90)", "SAM (ICCV'23)"
OTHER_IOU = {"CRIS (CVPR'22)": "mIoU", "LAVT (CVPR'22)": "oIoU"}
"""What "IoU" is in rows of Table 1, by their own papers and code: CRIS averages over sentences."""

TABLE_1: Mapping[str, tuple[float | None, ...]] = {
    SAM_ROW: (57.23, 58.71, 56.34, 44.95, 50.35, 41.38, 47.87, 49.31, 46.23),
    "ReSTR (CVPR'22)": (67.22, 69.30, 64.45, 55.78, 60.44, 48.27, None, None, 54.48),
    "CRIS (CVPR'22)": (70.47, 73.18, 66.10, 62.27, 68.08, 53.68, 59.87, 60.36, None),
    "RefTR (NIPS'21)": (70.56, 73.49, 66.57, 61.08, 64.69, 52.73, 58.73, 58.51, None),
    "LAVT (CVPR'22)": (72.73, 75.82, 68.79, 62.14, 68.38, 55.10, 61.24, 62.09, 60.50),
    "VLT (TPAMI'22)": (72.96, 75.96, 69.60, 63.53, 68.43, 56.92, 63.49, 66.22, 62.80),
    "ReLA (CVPR'23)": (73.82, 76.48, 70.18, 66.04, 71.02, 57.65, 65.00, 65.97, 62.70),
    "MCRES (CVPR'23)": (74.92, 76.98, 70.84, 64.32, 69.68, 56.64, 63.51, 64.90, 61.63),
    MARIS_ROW: (76.20, 78.92, 71.84, 66.37, 72.10, 57.33, 65.48, 66.60, 64.78),
    MARIS_PR90_ROW: (42.38, 43.15, 40.69, 36.58, 38.18, 30.42, 29.94, 32.00, 31.29),
}
"""In the order of ``TABLE_1_COLUMNS``."""

TABLE_6_METHODS = ("CRIS", "LAVT", "Ours")
TABLE_6: Mapping[str, tuple[float, float, float]] = {
    "RefCOCO": (15.53, 16.68, 22.82),
    "RefCOCO+": (16.30, 16.64, 21.68),
    "G-Ref": (16.24, 16.05, 22.47),
}
"""By training data, tested on PhraseCut's test split. The paper does not say which of G-Ref's two splits."""

TABLE_6_TRAINED_ON = {"RefCOCO": "refcoco", "RefCOCO+": "refcoco+", "G-Ref": "refcocog"}
TABLE_6_TESTED_ON = ("phrasecut", "test")
