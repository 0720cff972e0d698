"""The operation's public API: checks the arguments, then calls the implementation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from operator import index
from typing import Literal, get_args, get_type_hints

import torch
from torch import Tensor

from maris_fast.kernels.choice.operation import text
from maris_fast.kernels.choice.table import Steps, choices, chosen, chosen_at
from maris_fast.kernels.compiled_constant import constant_when_compiled
from maris_fast.kernels.errors import UnsupportedError
from maris_fast.kernels.mutual_attention.candidates import OPERATION, REFERENCE, TRITON, Kind, cut_of
from maris_fast.kernels.mutual_attention.reference import (
    AS_PRINTED,
    Keep,
    Reading,
    mutual_attention_reference,
    mutual_attention_weights_reference,
)

Impl = Literal["auto", "triton", "reference"]
# Looked up here, as torch.compile can't trace it.
READINGS = {name: get_args(known) for name, known in get_type_hints(Reading).items()}


def mutual_attention(
    z_v: Tensor,
    z_l: Tensor,
    ln_v_weight: Tensor,
    ln_v_bias: Tensor,
    ln_l_weight: Tensor,
    ln_l_bias: Tensor,
    *,
    tau: float | Tensor = 0.5,
    keep: Keep = "relevant",
    word_mask: Tensor | None = None,
    expr_offsets: Tensor | None = None,
    eps: float = 1e-5,
    reading: Reading = AS_PRINTED,
    impl: Impl = "auto",
) -> tuple[Tensor, Tensor]:
    """Mutual-aware attention, eqs. 3-5: both directions from one attention matrix.

    S = Z_v Z_lᵀ; A = softmax over the words that the gate keeps; f_lav = LN(A Z_l + Z_v);
    f_val = LN(Aᵀ Z_v + Z_l). The gate has no gradient.

    Args:
        z_v: projected visual tokens [I, L_v, C].
        z_l: projected words [E, L_t, C], same dtype and device.
        ln_v_weight, ln_v_bias, ln_l_weight, ln_l_bias: LayerNorm parameters [C].
        tau: threshold on sigmoid(S), in [0, 1); 0 keeps every pair. If it changes from step to step under
            torch.compile, pass a tensor [] on the CPU: each new number recompiles the graph.
        keep: "relevant" keeps sigmoid(S) >= tau, "irrelevant" keeps sigmoid(S) < tau (eq. 4 as printed),
            "all" disables the gate.
        word_mask: bool [E, L_t], True for a real word; None: all are.
        expr_offsets: int32 [I + 1], expressions expr_offsets[i] to expr_offsets[i + 1] belong to image i;
            None: one expression per image, I = E. On a GPU values are not checked: that would wait for it.
        eps: epsilon of both LayerNorms.
        reading: how the equations are read, by default as printed; see ``Reading``.
        impl: "reference" (plain PyTorch), "triton", or "auto" (see ``chosen_impl``).

    Returns:
        f_lav [E, L_v, C] and f_val [E, L_t, C]. As printed, a row of A that keeps no word is 0
        (f_lav = LN(z_v)), and so is a column that no pixel keeps (f_val = LN(z_l)).

    Raises:
        ValueError: shapes, dtypes or settings are invalid or do not match.
        UnsupportedError: the named implementation does not support these inputs on this machine.
    """
    _check(z_v, z_l, tau, keep, word_mask, expr_offsets, reading)
    for name, parameter in (
        ("ln_v_weight", ln_v_weight),
        ("ln_v_bias", ln_v_bias),
        ("ln_l_weight", ln_l_weight),
        ("ln_l_bias", ln_l_bias),
    ):
        if parameter.shape != z_v.shape[2:]:
            raise ValueError(
                f"{name} is {tuple(parameter.shape)}, expected ({z_v.shape[2]},), the width of z_v"
            )
        if not parameter.is_floating_point():
            raise ValueError(f"{name} is {parameter.dtype}; expected a floating-point dtype")
        if parameter.device != z_v.device:
            raise ValueError(f"z_v is on {z_v.device} and {name} on {parameter.device}; expected one device")
    taken, cut = _implementation(impl, z_v, z_l, word_mask, expr_offsets, reading)
    implementation: Callable[..., tuple[Tensor, Tensor]]
    if taken == TRITON:
        from maris_fast.kernels.mutual_attention.operator import mutual_attention_triton

        implementation = partial(mutual_attention_triton, cut=cut)
    else:
        implementation = mutual_attention_reference
    return implementation(
        z_v,
        z_l,
        ln_v_weight,
        ln_v_bias,
        ln_l_weight,
        ln_l_bias,
        tau=tau,
        keep=keep,
        word_mask=word_mask,
        expr_offsets=expr_offsets,
        eps=eps,
        reading=reading,
    )


def mutual_attention_weights(
    z_v: Tensor,
    z_l: Tensor,
    *,
    tau: float | Tensor = 0.5,
    keep: Keep = "relevant",
    word_mask: Tensor | None = None,
    expr_offsets: Tensor | None = None,
    reading: Reading = AS_PRINTED,
) -> Tensor:
    """A of eq. 3, [E, L_v, L_t] in fp32 (fp64 for fp64 inputs); arguments as in ``mutual_attention``.

    It stores all of A, which training never does: meant for visualisation and for checks.
    """
    _check(z_v, z_l, tau, keep, word_mask, expr_offsets, reading)
    return mutual_attention_weights_reference(
        z_v, z_l, tau=tau, keep=keep, word_mask=word_mask, expr_offsets=expr_offsets, reading=reading
    )


def chosen_impl(kind: Kind, device: torch.device) -> str:
    """What ``impl="auto"`` takes for such calls on a device: "reference", "triton" or "triton:<sizes>".

    It is what this machine's certificate names: the fastest that was right here. ``maris-fast kernels prove``
    writes the certificate. Without one, it is the reference.
    """
    return chosen(OPERATION, text(kind), device) or REFERENCE


# torch.compile can't look into a certificate, and it doesn't change.
@constant_when_compiled
def _proven(
    device: torch.device,
    dtype: torch.dtype,
    C: int,
    grouped: bool,
    masked: bool,
    gradient: bool,
    reading: Reading,
) -> Steps:
    kind = Kind(str(dtype).removeprefix("torch."), 0, C, 0, grouped, masked, gradient, *reading)
    return choices(OPERATION, kind, device, REFERENCE)


def _implementation(
    impl: Impl,
    z_v: Tensor,
    z_l: Tensor,
    word_mask: Tensor | None,
    expr_offsets: Tensor | None,
    reading: Reading,
) -> tuple[str, str]:
    """The implementation's name, and its block sizes if they are not the table's."""
    if impl not in get_args(Impl):
        raise ValueError(f"impl = {impl!r}; known are {', '.join(get_args(Impl))}")
    _, L_t, C = z_l.shape
    if impl == "triton":
        reason = _why_not_triton(z_v.device, z_v.dtype, L_t, C)
        if reason is not None:
            raise UnsupportedError(f"{reason}; use impl='reference' or 'auto'")
    if impl != "auto":  # the lookup below inspects L_t, which may be symbolic
        return impl, ""
    proven = _proven(
        z_v.device,
        z_v.dtype,
        # A symbolic width becomes a number here; lengths are only compared.
        index(C),
        expr_offsets is not None,
        word_mask is not None,
        torch.is_grad_enabled() and (z_v.requires_grad or z_l.requires_grad),
        reading,
    )
    candidate = chosen_at((L_t, z_v.shape[1]), proven)
    return candidate.partition(":")[0], cut_of(candidate)


def _why_not_triton(device: torch.device, dtype: torch.dtype, L_t: int, C: int) -> str | None:
    """Why the Triton kernels can't take such inputs; None when they can."""
    try:
        from maris_fast.kernels.mutual_attention import operator
    except ImportError as error:
        return f"triton can't be imported ({error})"
    return operator.why_unsupported(device, dtype, L_t, C)


def _check(
    z_v: Tensor,
    z_l: Tensor,
    tau: float | Tensor,
    keep: Keep,
    word_mask: Tensor | None,
    expr_offsets: Tensor | None,
    reading: Reading,
) -> None:
    if z_v.ndim != 3 or z_l.ndim != 3 or z_v.shape[2] != z_l.shape[2]:
        raise ValueError(
            f"z_v is {tuple(z_v.shape)} and z_l {tuple(z_l.shape)}; "
            "expected [I, L_v, C] and [E, L_t, C] of one C"
        )
    if z_v.dtype != z_l.dtype or not z_v.is_floating_point():
        raise ValueError(
            f"z_v is {z_v.dtype} and z_l {z_l.dtype}; expected one floating-point dtype for both"
        )
    if 0 in (z_v.shape[1], z_l.shape[1], z_v.shape[2]):
        raise ValueError(
            f"z_v is {tuple(z_v.shape)} and z_l {tuple(z_l.shape)}; "
            "expected at least one visual token, one word and one channel"
        )
    for name, tensor in (("z_l", z_l), ("word_mask", word_mask), ("expr_offsets", expr_offsets)):
        if tensor is not None and tensor.device != z_v.device:
            raise ValueError(f"z_v is on {z_v.device} and {name} on {tensor.device}; expected one device")
    _check_tau(tau)
    if keep not in get_args(Keep):
        raise ValueError(f"keep = {keep!r}; known are {', '.join(get_args(Keep))}")
    for (name, known), value in zip(READINGS.items(), reading, strict=True):
        if value not in known:
            raise ValueError(f"reading.{name} = {value!r}; known are {', '.join(known)}")
    if word_mask is not None and (word_mask.shape != z_l.shape[:2] or word_mask.dtype != torch.bool):
        raise ValueError(
            f"word_mask is {word_mask.dtype} {tuple(word_mask.shape)}; expected bool {tuple(z_l.shape[:2])}"
        )
    if expr_offsets is None:
        if z_v.shape[0] != z_l.shape[0]:
            raise ValueError(
                f"{z_v.shape[0]} images and {z_l.shape[0]} expressions; "
                "give expr_offsets, which says what belongs together"
            )
    elif expr_offsets.shape != (z_v.shape[0] + 1,) or expr_offsets.dtype != torch.int32:
        raise ValueError(
            f"expr_offsets is {expr_offsets.dtype} {tuple(expr_offsets.shape)}; "
            f"expected int32 ({z_v.shape[0] + 1},)"
        )
    elif expr_offsets.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_offsets(expr_offsets.tolist(), z_l.shape[0])


def _check_tau(tau: float | Tensor) -> None:
    if isinstance(tau, Tensor):
        if tau.ndim or tau.device.type != "cpu" or not tau.is_floating_point():
            raise ValueError(
                f"tau is {tau.dtype} {tuple(tau.shape)} on {tau.device}; "
                "expected a number, or a floating-point tensor () on the CPU"
            )
        if torch.compiler.is_compiling():
            return
        tau = tau.item()
    if not 0 <= tau < 1:
        raise ValueError(f"tau = {tau}; expected 0 <= tau < 1, a threshold on sigmoid(S)")


def _check_offsets(offsets: list[int], expressions: int) -> None:
    """Only for offsets on the CPU: reading them from a GPU would make a training step wait for it."""
    if offsets[0] != 0 or offsets[-1] != expressions:
        raise ValueError(
            f"expr_offsets runs from {offsets[0]} to {offsets[-1]}; expected from 0 to {expressions}, "
            "the number of expressions"
        )
    if any(start > stop for start, stop in pairwise(offsets)):
        raise ValueError(f"expr_offsets is {offsets}; expected offsets that never fall")
