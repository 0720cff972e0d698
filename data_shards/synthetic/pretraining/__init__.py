"""Tiny encoders trained on synthetic scenes, as SAM and CLIP were trained on photographs.

The outcome of a study on random features may depend on their randomness. These encoders are of the same
classes, have seen no scene of any split, and learn what SAM and CLIP learn: masks from points, and which text
belongs to which picture.
"""

from maris_fast.data_shards.synthetic.pretraining.image_encoder import pretrain_image_encoder
from maris_fast.data_shards.synthetic.pretraining.text_encoder import pretrain_text_encoder
from maris_fast.data_shards.synthetic.pretraining.weights import SAM, TEXT, pretrain_encoders

__all__ = ["SAM", "TEXT", "pretrain_encoders", "pretrain_image_encoder", "pretrain_text_encoder"]
