"""Conversion of the publishers' SPNet checkpoints: their tensors under our names."""

import re
from collections.abc import Mapping
from typing import Any

from sceneparse.errors import InputError, first_few
from sceneparse.models.weights import State, unwrap_state

# Patterns of the publishers' names, and our names.
_OFFICIAL_NAMES = (
    (r"pretrained\.(.*)\.spm\.conv1\.", r"backbone.\1.attention.rows.0."),
    (r"pretrained\.(.*)\.spm\.bn1\.", r"backbone.\1.attention.rows.1."),
    (r"pretrained\.(.*)\.spm\.conv2\.", r"backbone.\1.attention.columns.0."),
    (r"pretrained\.(.*)\.spm\.bn2\.", r"backbone.\1.attention.columns.1."),
    (r"pretrained\.(.*)\.spm\.conv3\.", r"backbone.\1.attention.fuse."),
    (r"pretrained\.", r"backbone."),
    (r"head\.trans_layer\.", r"head.reduce."),
    (r"head\.strip_pool(\d)\.conv1_1\.", r"head.mixed\1.short.reduce."),
    (r"head\.strip_pool(\d)\.conv2_0\.", r"head.mixed\1.short.full."),
    (r"head\.strip_pool(\d)\.conv2_1\.", r"head.mixed\1.short.pooled.0."),
    (r"head\.strip_pool(\d)\.conv2_2\.", r"head.mixed\1.short.pooled.1."),
    (r"head\.strip_pool(\d)\.conv2_5\.", r"head.mixed\1.short.fuse."),
    (r"head\.strip_pool(\d)\.conv1_2\.", r"head.mixed\1.long.reduce."),
    (r"head\.strip_pool(\d)\.conv2_3\.", r"head.mixed\1.long.columns."),
    (r"head\.strip_pool(\d)\.conv2_4\.", r"head.mixed\1.long.rows."),
    (r"head\.strip_pool(\d)\.conv2_6\.", r"head.mixed\1.long.fuse."),
    (r"head\.strip_pool(\d)\.conv3\.", r"head.mixed\1.fuse."),
    (r"head\.score_layer\.([01])\.", r"head.project.\1."),
    (r"head\.score_layer\.4\.", r"head.classifier.1."),
    (r"auxlayer\.conv5\.([01])\.", r"aux_head.project.\1."),
    (r"auxlayer\.conv5\.4\.", r"aux_head.classifier.1."),
)


def _own_name(name: str) -> str:
    for pattern, replacement in _OFFICIAL_NAMES:
        renamed, found = re.subn(f"^{pattern}", replacement, name)
        if found:
            return renamed
    return name


def convert_official_spnet(state_dict: Mapping[str, Any]) -> State:
    """Rename the tensors of a public SPNet checkpoint to those of `create_segmentation_model`.

    Takes the publishers' layout (`pretrained.`, `head.`, `auxlayer.`), also inside a `state_dict`
    key or with `module.` before every name. The result loads strictly into a model with the same
    backbone, classes and strip pooling modules. Raises InputError for anything else.
    """
    state = unwrap_state(state_dict, "the state dict")
    renamed = {_own_name(name): tensor for name, tensor in state.items()}
    unknown = [name for name in state if _own_name(name) == name]
    if unknown or not renamed:
        raise InputError(f"not a public SPNet checkpoint: {first_few(unknown) or 'it is empty'}")
    return renamed


def official_architecture(state: State) -> dict[str, Any]:
    """Return the arguments of create_segmentation_model for converted weights."""
    blocks = {name.split(".")[2] for name in state if name.startswith("backbone.layer3.")}
    backbones = {6: "resnet50", 23: "resnet101", 36: "resnet152"}
    bias = state.get("head.classifier.1.bias")
    if len(blocks) not in backbones or bias is None:
        raise InputError(
            f"not a whole SPNet: {len(blocks)} blocks in stage 3 (6, 23 or 36 expected)"
            + (", no head.score_layer.4.bias" if bias is None else "")
        )
    return {
        "head": "strip_pooling",
        "backbone": backbones[len(blocks)],
        "num_classes": len(bias),
        "attention": "strip_pooling" if any(".attention." in name for name in state) else "none",
        "aux": any(name.startswith("aux_head.") for name in state),
    }
