"""PyTorch operators with a gradient, at little host time per call.

``torch.library.custom_op`` gives the same, but wraps each call in several Python layers: with a gradient, a
call takes twice as long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

NAMESPACE = "maris_fast"
# Operators stay registered as long as this object lives.
LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")


Op = torch._ops.OpOverload[..., Any]


def operator(shapes: Callable[..., Any]) -> Callable[[Callable[..., Any]], Op]:
    """Register a function of tensors and settings as an operator of its name, for every device.

    Args:
        shapes: takes the same arguments; returns empty outputs, from which tracing takes shapes and dtypes.

    The function must not write to its inputs. It has no default values, so that it gets all its arguments.
    """

    def register(function: Callable[..., Any]) -> Op:
        name = function.__name__
        LIBRARY.define(name + torch.library.infer_schema(function, mutates_args=()))
        LIBRARY.impl(name, function, "CompositeExplicitAutograd")
        torch.library.register_fake(f"{NAMESPACE}::{name}", shapes, lib=LIBRARY)
        return getattr(torch.ops.maris_fast, name).default

    return register


def with_gradient(op: Op, save: Callable[..., None], gradients: Callable[..., tuple[Any, ...]]) -> None:
    """Give an operator its backward.

    Args:
        op: from ``operator``.
        save: takes the autograd context, the operator's arguments as a tuple and what it returned.
        gradients: takes the context and the outputs' gradients; returns one for each argument, or None.
            It is not differentiable itself.
    """

    class Gradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Any:
            outputs = below(*arguments)
            save(ctx, arguments, outputs)
            return outputs

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
            return gradients(ctx, *grads)

    def below(*arguments: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return op(*arguments)

    def differentiable(*arguments: Any) -> Any:
        needed = torch.is_grad_enabled() and any(
            isinstance(argument, Tensor) and argument.requires_grad for argument in arguments
        )
        return Gradient.apply(*arguments) if needed else below(*arguments)

    LIBRARY.impl(op._schema.name.partition("::")[2], differentiable, "Autograd")
