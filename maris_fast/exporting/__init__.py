"""Export of a trained model to files that other programs run: ONNX, and PyTorch's exported programs."""

from maris_fast.exporting.description import Description
from maris_fast.exporting.export import ONNX, PROGRAM, export_part, require_onnx
from maris_fast.exporting.parts import head_of, image_encoder_of, text_encoder_of

__all__ = [
    "ONNX",
    "PROGRAM",
    "Description",
    "export_part",
    "head_of",
    "image_encoder_of",
    "require_onnx",
    "text_encoder_of",
]
