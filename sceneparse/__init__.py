"""Scene parsing with strip pooling: models, data, training and evaluation.

The public names are imported at first use, so that importing the package is fast.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sceneparse.data.datasets import create_dataset as create_dataset
    from sceneparse.evaluation.any_model import evaluate as evaluate
    from sceneparse.inference.any_network import AnyNetwork as AnyNetwork
    from sceneparse.inference.predictor import Predictor as Predictor
    from sceneparse.inference.prepare import prepare_for_inference as prepare_for_inference
    from sceneparse.models import create_segmentation_model as create_segmentation_model
    from sceneparse.models.classification import create_classifier as create_classifier
    from sceneparse.models.official_spnet import convert_official_spnet as convert_official_spnet
    from sceneparse.runs.checkpoint import load_model as load_model

__version__ = "0.1.0"
_HOMES = {
    "AnyNetwork": "sceneparse.inference.any_network",
    "Predictor": "sceneparse.inference.predictor",
    "convert_official_spnet": "sceneparse.models.official_spnet",
    "create_classifier": "sceneparse.models.classification",
    "create_dataset": "sceneparse.data.datasets",
    "create_segmentation_model": "sceneparse.models",
    "evaluate": "sceneparse.evaluation.any_model",
    "load_model": "sceneparse.runs.checkpoint",
    "prepare_for_inference": "sceneparse.inference.prepare",
}
__all__ = ["__version__", *_HOMES]  # noqa: PLE0604 - the keys are strings

# A library logs nothing unless its user configures logging; commands call log_on_main().
logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    if name not in _HOMES:
        raise AttributeError(f"module 'sceneparse' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
