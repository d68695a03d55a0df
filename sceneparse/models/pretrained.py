"""Loading weights into models: strictly, with a readable account of what did not fit.

Files are safetensors, or .pth/.pt/.th, of which only tensors and plain values are read.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

from sceneparse.errors import InputError, first_few, refusing
from sceneparse.models.resnet import ResNet
from sceneparse.models.timm_backbone import TimmBackbone
from sceneparse.tensor_files import read_safetensors, read_tensors, require_plain

logger = logging.getLogger(__name__)

State = dict[str, Tensor]

# timm's ImageNet weights for our ResNets, by stem.
_IMAGENET_NAMES = {
    ("resnet50", "deep"): "resnet50s.gluon_in1k",
    ("resnet101", "deep"): "resnet101s.gluon_in1k",
    ("resnet152", "deep"): "resnet152s.gluon_in1k",
    ("resnet18", "plain"): "resnet18.tv_in1k",
    ("resnet34", "plain"): "resnet34.tv_in1k",
    ("resnet50", "plain"): "resnet50.tv_in1k",
    ("resnet101", "plain"): "resnet101.tv_in1k",
    ("resnet152", "plain"): "resnet152.tv_in1k",
}


def read_weights(path: str | Path) -> State:
    """Read named tensors from a .safetensors, .pth, .pt or .th file, without running its code.

    A `state_dict` or `model` key around the tensors and the prefixes of wrappers are taken off.
    Raises InputError for a missing, damaged or malicious file.
    """
    return _unwrapped(_read_file(Path(path)), str(path))


def _unwrapped(content: Any, source: str) -> State:  # noqa: ANN401 - a file holds anything
    # Bounded, since a file can hold itself.
    for _ in range(_MOST_WRAPPERS):
        content = _inner_state(content) or content
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise InputError(f"{source}: expected named tensors, found {type(content).__name__}")
    require_plain(content, source)
    state = dict(content)
    for _ in range(_MOST_WRAPPERS):
        prefix = next((p for p in _WRAPPERS if all(name.startswith(p) for name in state)), None)
        if not state or prefix is None:
            break
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


# DataParallel and DDP, torch.compile.
_WRAPPERS = ("module.", "_orig_mod.")
_MOST_WRAPPERS = 8


def _inner_state(content: Any) -> Mapping[Any, Any] | None:  # noqa: ANN401 - a file holds anything
    if not isinstance(content, Mapping):
        return None
    inner = (content.get(key) for key in ("state_dict", "model"))
    return next((value for value in inner if isinstance(value, Mapping) and value), None)


def _read_file(path: Path) -> Any:  # noqa: ANN401 - a file can hold anything
    if not path.is_file():
        raise InputError(f"weights file '{path}' does not exist")
    return read_safetensors(path) if path.suffix == ".safetensors" else read_tensors(path)


def load_strict(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load all of `state` into all of `module`; raise InputError that sums up what does not fit."""
    refuse_misfits(module, state, source)
    with refusing(source, "cannot be loaded"):
        module.load_state_dict(dict(state))


def refuse_misfits(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Raise InputError that sums up where names, shapes and kinds of numbers differ."""
    require_plain(state, source)
    own = module.state_dict()
    shared = [name for name in own if name in state]
    differences = {
        "missing": [name for name in own if name not in state],
        "unexpected": [name for name in state if name not in own],
        "of another shape": [
            f"{name} (file {list(state[name].shape)}, model {list(own[name].shape)})"
            for name in shared
            if own[name].shape != state[name].shape
        ],
        "of another kind": [
            f"{name} (file {state[name].dtype}, model {own[name].dtype})"
            for name in shared
            if _kind(own[name]) != _kind(state[name])
        ],
    }
    problems = [
        f"{len(names)} {kind}: {first_few(names, 3)}"
        for kind, names in differences.items()
        if names
    ]
    if problems:
        raise InputError(f"{source} does not fit the model: {'; '.join(problems)}")


def _kind(tensor: Tensor) -> tuple[bool, bool]:
    """Numbers of one kind turn into one another when they are loaded."""
    return tensor.is_floating_point(), tensor.is_complex()


def load_backbone(backbone: nn.Module, name: str, pretrained: str, *, stem: str) -> None:
    """Fill a backbone with weights: "imagenet" (downloaded by timm) or the path of a file.

    A file holds an ImageNet model of the backbone's kind, or a whole model of ours. `name` and
    `stem` are those the backbone was built with. What was left out is logged.
    """
    if pretrained == "imagenet":
        source, state = _imagenet_weights(backbone, name, stem)
    else:
        source, state = pretrained, read_weights(pretrained)
    own = {
        key.removeprefix("backbone."): v for key, v in state.items() if key.startswith("backbone.")
    }
    if own:
        dropped = [key for key in state if not key.startswith("backbone.")]
        load_strict(backbone, own, source)
    elif isinstance(backbone, TimmBackbone):
        dropped = _load_timm(backbone, state, source)
    else:
        dropped = _load_resnet(backbone, state, source)
    left_out = f"; left out its heads: {first_few(dropped, 4)}" if dropped else ""
    logger.info(f"backbone weights from {source}{left_out}")


def convert_official_spnet(state_dict: Mapping[str, Any]) -> State:
    """Rename the tensors of a public SPNet checkpoint to those of `create_segmentation_model`.

    Takes the publishers' layout (`pretrained.`, `head.`, `auxlayer.`), in or out of a `state_dict`
    key, with or without `module.` before every name. The result loads strictly into a model of the
    same backbone, classes and strip pooling modules. Raises InputError for anything else.
    """
    state = _unwrapped(state_dict, "the state dict")
    renamed = {_own_name(name): tensor for name, tensor in state.items()}
    unknown = [name for name in state if _own_name(name) == name]
    if unknown or not renamed:
        raise InputError(f"not a public SPNet checkpoint: {first_few(unknown) or 'it is empty'}")
    return renamed


def official_architecture(state: State) -> dict[str, Any]:
    """Tell from converted weights which arguments create_segmentation_model needs for them."""
    blocks = {name.split(".")[2] for name in state if name.startswith("backbone.layer3.")}
    backbones = {6: "resnet50", 23: "resnet101", 36: "resnet152"}
    if len(blocks) not in backbones or "head.classifier.1.bias" not in state:
        raise InputError(
            f"not a whole SPNet: {len(blocks)} blocks in stage 3 (6, 23 or 36 expected)"
            + ("" if "head.classifier.1.bias" in state else ", no head.score_layer.4.bias")
        )
    return {
        "head": "strip_pooling",
        "backbone": backbones[len(blocks)],
        "num_classes": len(state["head.classifier.1.bias"]),
        "attention": "strip_pooling" if any(".attention." in name for name in state) else "none",
        "aux": any(name.startswith("aux_head.") for name in state),
    }


# The publishers' names, as patterns, and ours; docs of the modules say what each part is.
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


def _with_counters(state: State, module: nn.Module) -> State:
    """Fill in batch norm's counters, which older files lack."""
    own = module.state_dict()
    return {**{key: own[key] for key in own if key.endswith("num_batches_tracked")}, **state}


def _load_resnet(backbone: nn.Module, state: State, source: str) -> list[str]:
    """ImageNet files have a classifier that we drop, and lack attention, which starts afresh."""
    dropped = [name for name in state if name.startswith("fc.")]
    own = {key: value for key, value in backbone.state_dict().items() if ".attention." in key}
    kept = {key: value for key, value in state.items() if key not in dropped}
    load_strict(backbone, _with_counters({**own, **kept}, backbone), source)
    return dropped


def _load_timm(backbone: TimmBackbone, state: State, source: str) -> list[str]:
    """Load strictly into timm's whole classifier, then copy what the features share with it."""
    whole = timm.create_model(backbone.name)
    classifier = _classifier_keys(whole)
    own_classifier = {k: v for k, v in whole.state_dict().items() if k in classifier}
    # The classifier's shape depends on the classes it was trained for; it is dropped anyway.
    load_strict(
        whole, {**{k: v for k, v in state.items() if k not in classifier}, **own_classifier}, source
    )
    # timm's feature wrappers flatten nested names: stages.0 becomes stages_0.
    flat = {key.replace(".", "_"): (key, value) for key, value in whole.state_dict().items()}
    wanted = {key: key.replace(".", "_") for key in backbone.features.state_dict()}
    unknown = [key for key, flattened in wanted.items() if flattened not in flat]
    if unknown:
        raise InputError(f"{source}: timm's features of {backbone.name} hide {first_few(unknown)}")
    shared = {key: flat[flattened][1] for key, flattened in wanted.items()}
    load_strict(backbone.features, shared, source)
    used = {flat[flattened][0] for flattened in wanted.values()}
    return [key for key in state if key not in used]


def _classifier_keys(whole: nn.Module) -> set[str]:
    names = whole.default_cfg["classifier"]  # type: ignore[index]
    prefixes: Iterable[str] = (names,) if isinstance(names, str) else names
    return {key for key in whole.state_dict() if any(key.startswith(f"{p}.") for p in prefixes)}


def _imagenet_weights(backbone: nn.Module, name: str, stem: str) -> tuple[str, State]:
    """Return the name of timm's weights for a backbone, and the weights."""
    source = name
    if isinstance(backbone, ResNet):
        if (name, stem) not in _IMAGENET_NAMES or backbone.base_width != 64:
            known = ", ".join(f"{model} with stem {kind}" for model, kind in _IMAGENET_NAMES)
            raise InputError(
                f"no ImageNet weights for {name} with stem {stem} and base_width "
                f"{backbone.base_width}; there are: {known}, all with base_width 64"
            )
        source = _IMAGENET_NAMES[name, stem]
    cfg = timm.get_pretrained_cfg(source)
    try:
        return source, dict(timm.create_model(source, pretrained=True).state_dict())
    except Exception as error:  # timm and the hub raise many types; the remedy is the same
        where = getattr(cfg, "hf_hub_id", None) or getattr(cfg, "url", None) or source
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise InputError(
            f"cannot download the ImageNet weights '{source}' ({reason}); fetch model.safetensors "
            f"of '{where}' elsewhere and set model.pretrained to its path"
        ) from error
