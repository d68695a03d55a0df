"""Download ImageNet weights with timm, or name the file to fetch after one short attempt."""

import threading
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError

from sceneparse.errors import InputError, reason_of
from sceneparse.models.weights import State

# Longest wait for an answer, in seconds. The download that follows has no limit.
ATTEMPT_SECONDS = 5.0
# The files of a repository of the hub that timm reads.
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def imagenet_weights(source: str, setting: str) -> State:
    """Return the ImageNet weights of a timm model, from its cache or downloaded.

    Without a network it fails within seconds; InputError then names the file to fetch, and
    `setting`, which takes its path.
    """
    cfg: Any = timm.get_pretrained_cfg(source)
    repository, url = getattr(cfg, "hf_hub_id", None), getattr(cfg, "url", None)
    if not repository and not url:
        raise InputError(
            f"timm has no pretrained weights for '{source}'; set {setting}=PATH to a file of its "
            "weights, or train from scratch"
        )
    cached = _cached_file(repository, url)
    # With the file, timm asks no server whether there is a newer one.
    overlay = {"file": str(cached), "custom_load": False} if cached else None
    place = hf_hub_url(repository, _HUB_FILES[0]) if repository else str(url)
    try:
        if cached is None:
            _within_seconds(lambda: _request(repository, place))
        network = timm.create_model(source, pretrained=True, pretrained_cfg_overlay=overlay)
    except Exception as error:  # timm and the hub raise many types; the remedy is the same
        raise InputError(
            f"cannot download the ImageNet weights '{source}' ({reason_of(error)}); download "
            f"{place} elsewhere and set {setting}=PATH to the file"
        ) from error
    return dict(network.state_dict())


def _cached_file(repository: str | None, url: str | None) -> Path | None:
    """Return the file of an earlier download."""
    if repository:
        found = [try_to_load_from_cache(repository, name) for name in _HUB_FILES]
        return next((Path(path) for path in found if isinstance(path, str)), None)
    path = Path(torch.hub.get_dir(), "checkpoints", Path(str(url)).name)
    return path if path.is_file() else None


def _request(repository: str | None, place: str) -> None:
    """Ask once for the header of the file; raises an error of many types."""
    if repository:
        with suppress(EntryNotFoundError):  # the server answers; timm looks for the other files
            get_hf_file_metadata(place, timeout=ATTEMPT_SECONDS)
    else:
        request = urllib.request.Request(place, method="HEAD")  # noqa: S310 - of timm's table
        urllib.request.urlopen(request, timeout=ATTEMPT_SECONDS).close()  # noqa: S310


def _within_seconds(ask: Callable[[], None]) -> None:
    """Call `ask`; raise its error, or TimeoutError, because a name server may never answer."""
    errors: list[Exception] = []

    def attempt() -> None:
        try:
            ask()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(ATTEMPT_SECONDS)
    if thread.is_alive():
        raise TimeoutError(f"no answer within {ATTEMPT_SECONDS:g} s")
    if errors:
        raise errors[0]
