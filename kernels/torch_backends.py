"""Which of PyTorch's own kernels for GPUs a process uses, the same in training and in proofs."""

from __future__ import annotations

import torch


def settle_backends() -> None:
    """In this process, compute fp32 convolutions in IEEE, and attention without cuDNN unless it is named.

    PyTorch's defaults are TF32 for convolutions (not for matrix products) and, on Hopper, cuDNN for
    ``scaled_dot_product_attention``. cuDNN builds a graph for each new shape, which takes as long as
    thousands of calls, and a run on images has hundreds of shapes; with torch 2.11 some masked calls get NaN
    gradients (pytorch/pytorch issue 196678).
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.enable_cudnn_sdp(False)
