"""#10, without explicit linguistic guidance (ELP): words multiply the pixels, the decoder gets none."""

from __future__ import annotations

from torch import Tensor


def words_into_pixels(f_lav: Tensor, f_val: Tensor, word_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """f_lav times the mean of f_val over real words, and empty f_val and word_mask.

    f_lav [E, L_v, C], f_val [E, L_t, C], word_mask bool [E, L_t] with a real word in each row
    -> f_lav [E, L_v, C], f_val [E, 0, C], word_mask [E, 0].
    """
    real = word_mask[..., None]
    mean = f_val.masked_fill(~real, 0).sum(1, keepdim=True) / real.sum(1, keepdim=True)
    return f_lav * mean, f_val[:, :0], word_mask[:, :0]
