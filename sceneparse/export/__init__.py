"""Export trained networks to files for other programs, and compare each with its model."""

from sceneparse.export.files import export_onnx, export_pt2, export_safetensors
from sceneparse.export.verification import ExportMismatchError

__all__ = ["ExportMismatchError", "export_onnx", "export_pt2", "export_safetensors"]
