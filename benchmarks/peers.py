"""Measure the cost of networks of other toolkits and of ours, all on the same picture.

Time in turns in this process, float32 (and int8), batch 1, until the logits have the size of the
picture, a synthetic street scene; multiply-adds of convolutions and matrix products; memory that
the first forward pass adds to a fresh process, at its peak, without what the allocator keeps of
freed blocks; parameters. Networks are named
TOOLKIT:NETWORK:BACKBONE, and ours end in :prepared after prepare_for_inference, and in :onnx and
:int8 in ONNX Runtime. With --accuracy, those that were trained alike are measured at the size that
they were trained at.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from benchmarks.infer import CLASSES
from benchmarks.peer_networks import (
    Peer,
    all_peers,
    build,
    check_installed,
    fitted_image,
    image_of,
    write_files,
)
from benchmarks.peers_memory import memory_of
from benchmarks.peers_scores import NUM_CLASSES, STUDY, Scored, read_scores
from benchmarks.picture import Point, check_picture, draw_points
from benchmarks.rows import check_folders, in_turns, median_interval
from sceneparse.cli.command import command_parser, writing
from sceneparse.errors import InputError, first_few
from sceneparse.models.costs import count_multiply_adds, count_parameters
from sceneparse.report.tables import Table, write_json
from sceneparse.runtime.threads import usable_cores
from sceneparse.runtime.versions import describe_device, provenance
from sceneparse.studies.seeds import Spread

EXAMPLES = """\
  python -m benchmarks peers --markdown --json peers_speed.json --picture peers_speed.png
  python -m benchmarks peers --only 'smp:*' '*:resnet50*' --turns 5
  python -m benchmarks peers --only '*:prepared' --size 256 256 --threads 1
  python -m benchmarks peers --accuracy results/peers_accuracy.json --picture pareto.png"""
_SIZE, _SIDES = (512, 512), (32, 4096)
# Seconds before each timing, until the threads of the last network sleep.
_PAUSE = 0.05
_TOOLKITS = {"smp": "segmentation_models.pytorch"}
# A picture of more networks names of ours only these.
_MAX_LABELS, _NAMED = 16, ("strip_pooling", "strip_pooling_plus")
_FORMS = {
    "eager": "",
    "prepared": ", prepare_for_inference",
    "onnx": ", ONNX Runtime",
    "int8": ", ONNX Runtime, int8",
}


@dataclass(frozen=True)
class Cost:
    """What a network costs on an image of `height` x `width`, and its mean IoU if it is known.

    milliseconds: median, with its 95% interval. gmac: 1e9 multiply-adds. memory_mb: in 2**20 bytes.
    """

    peer: Peer
    milliseconds: float
    milliseconds_low: float
    milliseconds_high: float
    gmac: float
    memory_mb: float
    parameters: int
    height: int
    width: int
    score: Spread | None

    def as_entry(self) -> dict[str, Any]:
        """Return it as an entry of the JSON file."""
        values = {k: v for k, v in vars(self).items() if k not in {"peer", "score"}}
        entry = {"name": self.peer.name, **values}
        if self.score is not None:
            entry |= {"mean_iou": self.score.mean, "seeds": len(self.score.values)}
            entry |= {"mean_iou_low": self.score.low, "mean_iou_high": self.score.high}
        return entry

    def as_cells(self) -> list[str]:
        """Return it as a row of the table."""
        low, high = self.milliseconds_low, self.milliseconds_high
        cells = [
            self.peer.name,
            f"{self.width}x{self.height}",
            f"{self.milliseconds:.1f}",
            "-" if math.isnan(low) else f"{low:.1f} to {high:.1f}",
            f"{self.gmac:.2f}",
            f"{self.memory_mb:.0f}",
            f"{self.parameters / 1e6:.2f}",
        ]
        if self.score is not None:
            mean, _, interval = self.score.cells("{:.4f}".format)
            cells += [mean, interval]
        return cells


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    result = command_parser("benchmark", str(__doc__), EXAMPLES)
    result.prog = "python -m benchmarks peers"
    add = result.add_argument
    add("--only", nargs="+", metavar="PATTERN", help="networks of these names; * is any text")
    add("--turns", type=int, default=9, help="timings of each; default: 9, from 6 with intervals")
    add("--threads", type=int, help="threads of all networks; default: PyTorch's choice")
    add("--size", type=int, nargs=2, metavar=("H", "W"), help="of the picture; default: 512 512")
    add("--accuracy", nargs="+", type=Path, metavar="FILE", help="mean IoU: files of results/")
    add("--json", metavar="FILE", help="write the rows to this file as well")
    add("--picture", metavar="FILE", help="draw the rows (.png, .svg, .pdf)")
    add("--markdown", action="store_true", help="print the table as Markdown")
    return result


def main(options: argparse.Namespace) -> None:
    """Measure, print the table, write the files."""
    _check(options)
    scored = read_scores(options.accuracy) if options.accuracy else None
    peers = chosen_peers(scored.peers if scored else all_peers(), options.only)
    check_installed(peers)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    height, width = scored.setting.size if scored else options.size or _SIZE
    costs = measure(peers, (height, width), options.turns, scored)
    table = as_table(costs)
    print(f"{describe_device(torch.device('cpu'))}, median of {options.turns} turns\n")
    print(table.as_markdown() if options.markdown else table.as_text())
    if options.json is not None:
        facts = provenance(torch.device("cpu"))
        with writing(options.json):
            write_json(Path(options.json), [{**cost.as_entry(), **facts} for cost in costs])
    if options.picture is not None:
        with writing(options.picture):
            draw(costs, scored, Path(options.picture))


def _check(options: argparse.Namespace) -> None:
    """Raise InputError for numbers and files that cannot be used, before anything is measured."""
    if options.turns < 1:
        raise InputError(f"--turns must be at least 1, got {options.turns}")
    cores = usable_cores()
    if options.threads is not None and not 1 <= options.threads <= cores:
        raise InputError(
            f"--threads must be in 1..{cores}, the usable cores, got {options.threads}"
        )
    if options.size is not None and options.accuracy:
        raise InputError(
            "--accuracy measures at the size that the networks were trained at; remove --size"
        )
    low, high = _SIDES
    if any(not low <= side <= high for side in options.size or ()):
        raise InputError(f"--size must be in {low}..{high}, got {options.size}")
    check_folders(options.json, options.picture)
    if options.picture is not None:
        check_picture(Path(options.picture))


def chosen_peers(peers: Sequence[Peer], only: Sequence[str] | None) -> list[Peer]:
    """Return the networks that any of the patterns fits; raises InputError if one fits none."""
    names = [peer.name for peer in peers]
    for pattern in only or ():
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InputError(
                f"--only: no network is named '{pattern}'; names are {first_few(names, 3)}, "
                "all in the table of docs/explanation/speed.md"
            )
    patterns = only or ("*",)
    return [peer for peer in peers if any(fnmatchcase(peer.name, p) for p in patterns)]


@torch.inference_mode()
def measure(
    peers: Sequence[Peer], size: tuple[int, int], turns: int, scored: Scored | None
) -> list[Cost]:
    """Measure all networks on a picture of a size (height, width); the fastest is first."""
    classes = NUM_CLASSES if scored else CLASSES
    with tempfile.TemporaryDirectory() as name:
        files = Path(name)
        write_files(peers, fitted_image(nn.Identity(), size), files)
        memory = memory_of(peers, classes, size, files)
        networks = {peer.name: build(peer, classes, files) for peer in peers}
    images = {peer.name: image_of(peer, networks[peer.name], size) for peer in peers}
    print(f"timing {len(peers)} networks in {turns} turns", file=sys.stderr, flush=True)
    works = {name: partial(networks[name], image) for name, image in images.items()}
    seconds = in_turns(works, repeats=turns, pause=_PAUSE)
    costs = []
    for peer in peers:
        times, shape = [1000 * s for s in seconds[peer.name]], tuple(images[peer.name].shape)
        low, high = median_interval(times)
        with torch.device("meta"):
            outline = peer.create(classes).eval()
        costs.append(
            Cost(
                peer=peer,
                milliseconds=median(times),
                milliseconds_low=low,
                milliseconds_high=high,
                gmac=count_multiply_adds(outline, shape) / 1e9,
                memory_mb=memory[peer.name] / 2**20,
                parameters=count_parameters(outline),
                height=shape[2],
                width=shape[3],
                score=scored.scores[peer.network] if scored else None,
            )
        )
    return sorted(costs, key=lambda cost: cost.milliseconds)


def as_table(costs: Sequence[Cost]) -> Table:
    """Return the costs as a table."""
    heads = ["", "image", "ms", "95%", "GMAC", "memory (MB)", "parameters (M)"]
    if costs[0].score is not None:
        heads += ["mean IoU", "95% over seeds"]
    return Table("", heads, [cost.as_cells() for cost in costs])


def draw(costs: Sequence[Cost], scored: Scored | None, path: Path) -> None:
    """Draw mean IoU against time with the Pareto front, or else multiply-adds against time."""
    machine = describe_device(torch.device("cpu"))
    label = "milliseconds per image, median and 95% interval"
    if scored is None:
        few = len({cost.peer.network for cost in costs}) <= _MAX_LABELS
        rest = "" if few else "; points without a name: other heads of sceneparse"
        height, width = min((cost.height, cost.width) for cost in costs)
        caption = f"{width}x{height} pixels, float32 unless int8; {machine}{rest}"
        points = [_cost_point(cost, few) for cost in costs]
        draw_points(points, path, (label, "GMAC"), caption)
        return
    seeds = sorted({len(spread.values) for spread in scored.scores.values()})
    caption = (
        f"CamVid, test images; all trained alike (recipe of {STUDY}, MobileNetV2, "
        f"{scored.setting}); {' or '.join(map(str, seeds))} seeds; timed at that size, {machine}"
    )
    labels = label, "mean IoU (%), mean and 95% interval over seeds"
    draw_points([*map(_score_point, costs)], path, labels, caption, front=True)


def _point(cost: Cost, label: str, y: tuple[float, float, float]) -> Point:
    """Return a point; the legend names the toolkit and form of its network."""
    peer, x = cost.peer, (cost.milliseconds, cost.milliseconds_low, cost.milliseconds_high)
    group = _TOOLKITS.get(peer.toolkit, peer.toolkit) + _FORMS[peer.form]
    return Point(peer.network, label, group, x, y)


def _cost_point(cost: Cost, few: bool) -> Point:
    """Return a point, which has a name if there are few or if it is of others or strip pooling."""
    _, name, *_ = parts = cost.peer.network.split(":")
    is_named = few or cost.peer.toolkit != "sceneparse" or name in _NAMED
    return _point(cost, " ".join(parts[1:]) if is_named else "", (cost.gmac,) * 3)


def _score_point(cost: Cost) -> Point:
    assert cost.score is not None  # drawn with scores only
    y = 100 * cost.score.mean, 100 * cost.score.low, 100 * cost.score.high
    return _point(cost, cost.peer.network.split(":")[1], y)
