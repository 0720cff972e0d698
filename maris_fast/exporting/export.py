"""Writes a part as a file, then runs the file and compares it with the model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from maris_fast.errors import CheckpointError, ConfigError
from maris_fast.exporting.description import Description
from maris_fast.exporting.parts import Part
from maris_fast.weights import HEADER

TOLERANCE = 1e-4
"""Largest accepted difference: absolute for values up to 1, else relative to the largest value."""
_MOST_INSIDE = 1 << 30
"""Parameters of more bytes than this are stored beside the ONNX file: protobuf's limit is 2 GiB."""

Run = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


class Format(NamedTuple):
    """How a part is written, and how its file is run."""

    suffix: str
    write: Callable[[ExportedProgram, Part, Description, Path], None]
    opened: Callable[[Path], Run]


def export_part(
    part: Part, formats: Sequence[Format], description: Description, folder: Path
) -> dict[str, float]:
    """Write a file for each format.

    Returns:
        By file name, the largest difference from the model over the part's examples.

    Raises:
        CheckpointError: the part cannot be exported, or a file does not compute what the model does.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's warnings about its own internals
        program = _traced(part)
        return {
            f"{part.name}{one.suffix}": _written(one, program, part, description, folder) for one in formats
        }


def _written(
    one: Format, program: ExportedProgram, part: Part, description: Description, folder: Path
) -> float:
    path = folder / f"{part.name}{one.suffix}"
    one.write(program, part, description, path)
    difference = _difference(part, one.opened(path))
    if not difference <= TOLERANCE:  # it may be NaN
        raise CheckpointError(
            f"{path.name} differs from the model by {difference:.2g}, more than {TOLERANCE:g}: weights "
            "overflow, or these versions of torch, onnxscript and onnxruntime do not fit together; "
            "constraints.txt names some that do"
        )
    return difference


def require_onnx() -> None:
    """
    Raises:
        ConfigError: a package that writes or runs ONNX files is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"ONNX needs {error.name}, which is not installed: pip install 'maris-fast[onnx]'"
        ) from error


def _traced(part: Part) -> ExportedProgram:
    """One program for all sizes of free dimensions. Tracing only uses the shapes of its inputs."""
    free = {side for slot in part.inputs.values() for side in slot.shape if isinstance(side, str)}
    length = {side: place for place, side in enumerate(sorted(free), start=3)}
    inputs = {
        name: torch.zeros(
            [length[side] if isinstance(side, str) else side for side in slot.shape], dtype=slot.dtype
        )
        for name, slot in part.inputs.items()
    }
    dims = {}
    for side in free:
        least, most = part.sides.get(side, (1, None))
        dims[side] = Dim(side, min=least, max=most)
    shapes = {
        name: {axis: dims[side] for axis, side in enumerate(slot.shape) if side in dims}
        for name, slot in part.inputs.items()
    }
    with torch.no_grad():
        return torch.export.export(part.module, (), inputs, dynamic_shapes=shapes, strict=False)


def _write_program(program: ExportedProgram, part: Part, description: Description, path: Path) -> None:
    torch.export.save(program, path, extra_files={HEADER: description.model_dump_json()})


def _opened_program(path: Path) -> Run:
    module = torch.export.load(path).module()
    return lambda inputs: module(**inputs)


def _write_onnx(program: ExportedProgram, part: Part, description: Description, path: Path) -> None:
    import onnx_ir

    named: set[int | str] = set()  # a dimension is named only at its first occurrence
    axes: dict[str, dict[int, str]] = {}
    for name, slot in part.inputs.items():
        new = [(axis, side) for axis, side in enumerate(slot.shape) if isinstance(side, str)]
        axes[name] = {axis: side for axis, side in new if side not in named}
        named.update(slot.shape)
    onnx = torch.onnx.export(
        program,
        dynamo=True,
        input_names=list(part.inputs),
        output_names=list(part.outputs),
        dynamic_shapes=axes,
        verbose=False,
    )
    assert onnx is not None
    for value, slot in zip(onnx.model.graph.outputs, part.outputs.values(), strict=True):
        value.shape = onnx_ir.Shape(slot.shape)
    onnx.model.metadata_props[HEADER] = description.model_dump_json()
    size = sum(tensor.nbytes for tensor in program.state_dict.values())
    onnx.save(path, external_data=size > _MOST_INSIDE)


def _opened_onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]

    def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        arrays = session.run(names, {name: tensor.numpy() for name, tensor in inputs.items()})
        return {name: torch.from_numpy(array) for name, array in zip(names, arrays, strict=True)}

    return run


PROGRAM = Format(".pt2", _write_program, _opened_program)
ONNX = Format(".onnx", _write_onnx, _opened_onnx)


@torch.no_grad()
def _difference(part: Part, run: Run) -> float:
    """Largest difference of floating-point outputs, NaN if one is NaN.

    Booleans may differ for values close to the threshold.
    """
    differences = [0.0]
    for inputs in part.examples:
        wanted, found = part.module(**inputs), run(inputs)
        for name, slot in part.outputs.items():
            if slot.dtype.is_floating_point:
                scale = max(1.0, float(wanted[name].abs().max()))
                differences.append(float((found[name] - wanted[name]).abs().max()) / scale)
    return float(torch.tensor(differences, dtype=torch.float64).max())  # Python's `max` may drop NaN
