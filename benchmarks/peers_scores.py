"""Scores of networks that were trained alike on CamVid, from the files in results/.

They hold the runs of `benchmarks peers_accuracy` and of the study of decoders. Only test scores
count, and of peers_accuracy only the recipe "ours": the settings, ImageNet weights and epochs of
the study.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.peer_networks import Peer, all_peers, forms_of, our_peer
from benchmarks.peers_runs import HALF, REFERENCE
from sceneparse.config.recipes import find_config
from sceneparse.config.segmentation import SegConfig
from sceneparse.errors import InputError, refusing
from sceneparse.files import MAX_DESCRIPTION, read_json
from sceneparse.studies.seeds import Spread, spread_of
from sceneparse.studies.segmentation import read_study
from sceneparse.training.segmentation import model_arguments

STUDY = "study/camvid_decoder"
# CamVid's.
NUM_CLASSES = 11
_SPLIT = "test"
# Names of peers_accuracy for networks of SMP, and for the one that has another name in the study.
_SMP = {
    "smp_unet": "smp:unet:mobilenetv2_100",
    "smp_deeplabv3plus": "smp:deeplabv3plus:mobilenetv2_100",
}
_SAME = {REFERENCE.name: "mixed_fine"}


@dataclass(frozen=True)
class Setting:
    """What scores must share to be compared: height and width of the images, epochs."""

    size: tuple[int, int]
    epochs: int

    def __str__(self) -> str:
        return f"images of {self.size[1]}x{self.size[0]}, {self.epochs} epochs"


@dataclass(frozen=True)
class Scored:
    """Networks of one setting, by name: each in its forms, and its mean IoU over the seeds."""

    setting: Setting
    networks: Mapping[str, Sequence[Peer]]
    scores: Mapping[str, Spread]

    @property
    def peers(self) -> list[Peer]:
        """All networks in all forms."""
        return [peer for forms in self.networks.values() for peer in forms]


def read_scores(paths: Sequence[Path]) -> Scored:
    """Read the scores of files; raises InputError unless all are of one setting."""
    found: dict[tuple[str, int], float] = {}
    settings: dict[Setting, Path] = {}
    for path in paths:
        for name, seed, setting, score in _entries(path):
            settings.setdefault(setting, path)
            if found.setdefault((name, seed), score) != score and len(settings) == 1:
                raise InputError(
                    f"{path}: seed {seed} of {name} has mean IoU {score:.4f}, but "
                    f"{found[name, seed]:.4f} in another entry; give one of the files only"
                )
    if not settings:
        raise InputError(
            f"{', '.join(map(str, paths))}: no {_SPLIT} scores of networks trained alike; give "
            "results/peers_accuracy.json or results/camvid_decoder_study.json"
        )
    if len(settings) > 1:
        text = "; ".join(f"{path}: {setting}" for setting, path in settings.items())
        raise InputError(
            f"networks of different settings cannot be compared, give files of one: {text}"
        )
    (setting,) = settings
    known = {**_ours(), **{peer.network: [peer] for peer in all_peers() if peer.toolkit == "smp"}}
    by_network: dict[str, list[float]] = {}
    for (name, _), score in found.items():
        by_network.setdefault(name, []).append(score)
    networks = {name: known[name] for name in by_network}
    return Scored(setting, networks, {name: spread_of(s) for name, s in by_network.items()})


def _entries(path: Path) -> Iterator[tuple[str, int, Setting, float]]:
    """Yield network, seed, setting and mean IoU of the entries of a file that count."""
    content = read_json(path, MAX_DESCRIPTION)
    with refusing(path, "holds no scores of peers_accuracy or of the study of decoders"):
        entries = [(entry, str(entry["split"])) for entry in content]
        for entry, split in entries:
            if split == _SPLIT and entry.get("recipe", "ours") == "ours":
                yield _name(entry), int(entry["seed"]), _setting(entry), float(entry["mean_iou"])


def _name(entry: Mapping[str, Any]) -> str:
    """Return the name of the network of an entry; raises InputError if it is not known."""
    given = str(entry["name"] if "name" in entry else entry["config"])
    if given in _SMP:
        return _SMP[given]
    for name in _ours():
        if name.split(":")[1] == _SAME.get(given, given):
            return name
    raise InputError(f"network '{given}' is neither one of peers_accuracy nor a row of {STUDY}")


def _setting(entry: Mapping[str, Any]) -> Setting:
    """Return the setting of an entry; the study's files lack what its configuration fixes."""
    width, height = map(int, str(entry.get("size", f"{HALF[1]}x{HALF[0]}")).split("x"))
    config = next(iter(_rows().values()))
    return Setting((height, width), int(entry.get("epochs", config.train.epochs)))


@cache
def _rows() -> dict[str, SegConfig]:
    """Return the configurations of the study's rows."""
    runs = read_study(find_config(STUDY, Path()), ()).runs
    return {run.row: run.config for run in runs}


@cache
def _ours() -> dict[str, Sequence[Peer]]:
    """Return the networks of the study by name, each in its forms."""
    peers = [our_peer(row, model_arguments(config, NUM_CLASSES)) for row, config in _rows().items()]
    return {peer.network: forms_of(peer) for peer in peers}
