"""The attention operations, run small here and held against their references. On GPUs not yet tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maris_fast.doctor.finding import Finding, broken, not_run, ok, together, warning
from maris_fast.doctor.subject import Subject

if TYPE_CHECKING:
    import torch

WORDS, CHANNELS = 7, 64
# Of a photograph, to a power of two: for which kind of call it is asked what is taken.
TOKENS = 4096


def mutual_attention(subject: Subject) -> Finding:
    """Triton's kernels compile here, and agree with the reference forward and backward.

    Where TRITON_INTERPRET is set they are interpreted, in fp32.
    """
    import torch

    from maris_fast.kernels.choice.table import summary
    from maris_fast.kernels.mutual_attention.candidates import OPERATION, REFERENCE
    from maris_fast.kernels.mutual_attention.operator import why_unsupported
    from maris_fast.kernels.mutual_attention.parity import Case, parity

    wanted = subject.model.mutual_attention_impl == "triton"
    device = _device(subject)
    auto = f"impl auto takes {summary(OPERATION, device, REFERENCE)}"
    reason = why_unsupported(device, torch.float32, WORDS, subject.model.channels)
    if reason and wanted:
        came = f"model.mutual_attention_impl = triton: {reason}"
        return broken(came, "one that can run here", "set model.mutual_attention_impl=auto")
    if reason:
        return not_run(f"{reason}; {auto}")
    wrong = []
    for dtype in (torch.float32, torch.bfloat16):
        if why_unsupported(device, dtype, WORDS, CHANNELS) is None:
            case = Case(L_v=70, L_t=WORDS, C=CHANNELS, dtype=dtype, counts=(2, 0, 1), padded=True)
            wrong += [f"{dtype}: {one}" for one in parity(case, device).failures()]
    return judge_parity(wrong, f"Triton's kernels run on {device.type} and agree; {auto}", wanted)


def judge_parity(wrong: list[str], all_well: str, used: bool) -> Finding:
    """``used``: the settings name the kernels; else calls get only what a proof here found right."""
    if not wrong:
        return ok(all_well)
    judge = broken if used else warning
    return judge(
        f"Triton's kernels disagree with the reference: {'; '.join(wrong)}",
        "errors within their bounds",
        "leave model.mutual_attention_impl at auto or reference, and report it with `maris-fast info`",
    )


def attention(subject: Subject) -> Finding:
    """What ``attention_impl`` takes for the decoder's shapes runs, and agrees with the reference."""
    import torch

    from maris_fast.kernels.multihead_attention.api import chosen_impl
    from maris_fast.kernels.multihead_attention.candidates import Kind
    from maris_fast.kernels.multihead_attention.implementations import why_unsupported
    from maris_fast.kernels.multihead_attention.memory_efficient import why_not_built
    from maris_fast.kernels.multihead_attention.parity import Shape, failures

    device = _device(subject)
    on_gpu = device.type == "cuda"
    bf16 = on_gpu and (subject.training is None or subject.training.engine.precision == "bf16")
    dtype = torch.bfloat16 if bf16 else torch.float32
    head_dim = subject.model.channels // subject.model.heads
    findings, taken = [], {}
    for masked in (False, True):
        named = subject.model.attention_impl
        name, keys = str(dtype).removeprefix("torch."), 64 if masked else TOKENS
        kind = Kind(name, subject.model.heads, head_dim, TOKENS, keys, masked, True)
        impl = chosen_impl(kind, device) if named == "auto" else named
        reason = why_unsupported(impl, device, dtype, head_dim, masked)
        if reason:
            todo = "set model.attention_impl=auto"
            findings.append(broken(f"model.attention_impl = {impl}: {reason}", "one that can run here", todo))
            continue
        shape = Shape(B=2, L_q=70, L_k=33 if masked else 70, heads=2, head_dim=head_dim, masked=masked)
        findings.append(_judge_attention(impl, failures(impl, shape, device, dtype)))
        taken["masked" if masked else "unmasked"] = impl
    if on_gpu and (reason := why_not_built()):
        findings.append(
            warning(reason, "xformers, unless sdpa is meant", "pip install -c constraints.txt xformers")
        )
    found = together(findings)
    if found.status != "ok":
        return found
    said = ", ".join(f"{where} {impl}" for where, impl in taken.items())
    return ok(f"head dim {head_dim}, {str(dtype).removeprefix('torch.')}: {said}; agrees with the reference")


def _device(subject: Subject) -> torch.device:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() and not subject.refuses_gpu else "cpu")


def _judge_attention(impl: str, wrong: list[str]) -> Finding:
    if not wrong:
        return ok(impl)
    return broken(
        f"{impl} disagrees with the reference: {'; '.join(wrong)}",
        "errors within their bounds",
        "set model.attention_impl to another, such as sdpa or reference",
    )
