"""Several imported data sets as one to train on, with nobody's test images in its train split.

RefCOCO, RefCOCO+, G-Ref and gRefCOCO divide the same images of COCO in different ways, and PhraseCut has
some of them under other names: one's train split holds another's test images.
"""

from __future__ import annotations

from maris_fast.data_shards.mixing.mix import MixReport, mix_datasets

__all__ = ["MixReport", "mix_datasets"]
