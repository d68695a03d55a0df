"""Networks: backbones and heads, segmentation and classification models, their weights."""

from sceneparse.models.segmentation import create_segmentation_model

__all__ = ["create_segmentation_model"]
