"""Several imported data sets as one to train on, without test images of any of them in its train split.

RefCOCO, RefCOCO+, G-Ref and gRefCOCO split the same COCO images in different ways, and PhraseCut has some of
them under other names: the train split of one contains test images of another.
"""

from __future__ import annotations

from maris_fast.data_shards.mixing.mix import MixReport, mix_datasets

__all__ = ["MixReport", "mix_datasets"]
