"""PyTorch's AdamW for a run that compiles nothing."""

from __future__ import annotations

from inspect import unwrap
from typing import Any

import torch
from torch.optim import Optimizer


class PlainAdamW(torch.optim.AdamW):
    """AdamW without its methods' marks for torch.compile.

    The first call of a marked one imports the compiler and SymPy: a quarter of a rank's CPU time to start.
    """

    add_param_group: Any = unwrap(Optimizer.add_param_group)
    zero_grad: Any = unwrap(Optimizer.zero_grad)
    state_dict: Any = unwrap(Optimizer.state_dict)
    load_state_dict: Any = unwrap(Optimizer.load_state_dict)
    step: Any = torch.no_grad()(unwrap(torch.optim.AdamW.step))
