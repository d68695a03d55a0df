"""Classifiers side by side: groups of seeds, which differences are separated, what they cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sceneparse.errors import InputError, first_few, refusing
from sceneparse.files import LARGEST_DESCRIPTION, read_json
from sceneparse.metrics.significance import MeanDifference, compare_means
from sceneparse.report.seeds import SeedCurves, Spread, read_seed, spread_of
from sceneparse.runs.folder import flat

# Settings that differ between seeds, or say where things are.
_NOT_COMPARED = ("output", "seeds", "data.root")
# Nets can be compared where these are the same: the images they are tested on.
_TESTED_ON = ("data.dataset", "data.test_split", "data.size")


@dataclass(frozen=True)
class Group:
    """The seeds of one configuration: curves of the finished ones, and a word on the others.

    `meta` is what the checkpoint of one of the finished knows: model, classes, configuration,
    precision.
    """

    folder: Path
    curves: list[SeedCurves]
    unfinished: list[str]
    meta: Mapping[str, Any]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The configuration without what differs between seeds, keys dotted."""
        return _compared(self.meta)

    @property
    def last_accuracies(self) -> list[float]:
        """Test accuracy after the last epoch, of each seed."""
        return [float(curve.test_accuracy[-1]) for curve in self.curves]

    @property
    def last_losses(self) -> list[float]:
        """Test loss after the last epoch, of each seed."""
        return [float(curve.test_loss[-1]) for curve in self.curves]

    @property
    def best_accuracies(self) -> list[float]:
        """Test accuracy after the best epoch, of each seed."""
        return [float(curve.test_accuracy[curve.best]) for curve in self.curves]


@dataclass(frozen=True)
class Row:
    """What the seeds of one group say together."""

    name: str
    seeds: int
    accuracy: Spread
    loss: Spread
    best_accuracy: Spread


@dataclass(frozen=True)
class Comparison:
    """Groups by name, their rows, all pairs tested, and what a reader must know of the seeds."""

    groups: dict[str, Group]
    rows: list[Row]
    accuracy: list[MeanDifference]
    loss: list[MeanDifference]
    notes: list[str]

    def against_first(self, name: str) -> MeanDifference:
        """Find the difference of accuracy between the first group and this one."""
        first = next(iter(self.groups))
        return next(d for d in self.accuracy if (d.first, d.second) == (first, name))


def read_group(folder: Path) -> Group:
    """Read the output folder of tools/train_cls.py (or the folder of one seed).

    Raises InputError where it is none, where its seeds were trained by different settings, or where
    two of them are one.
    """
    is_seed = (folder / "metrics.jsonl").is_file()
    runs = [folder] if is_seed else [path for path in folder.glob("seed-*") if path.is_dir()]
    if not runs:
        raise InputError(f"'{folder}' holds no runs of tools/train_cls.py (seed-N)")
    finished, unfinished = {}, []
    for run in sorted(runs, key=_number):
        meta = _read_meta(run)
        epochs = meta["config"]["train"]["epochs"] if meta else None
        if meta is None or meta["epoch"] < epochs:
            unfinished.append(
                f"{run.name} ({meta['epoch'] if meta else 0} of {epochs or '?'} epochs)"
            )
        else:
            finished[run] = meta
    _refuse_doubles(folder, finished)
    metas = [*finished.values()]
    for meta in metas[1:]:
        _refuse_differences(folder, metas[0], meta)
    curves = [_read_curves(run, meta) for run, meta in finished.items()]
    return Group(folder, curves, unfinished, metas[0] if metas else {})


def _read_curves(run: Path, meta: Mapping[str, Any]) -> SeedCurves:
    curves, epochs = read_seed(run), meta["config"]["train"]["epochs"]
    found = len(curves.test_accuracy)
    if found != epochs:
        raise InputError(f"{run / 'metrics.jsonl'} holds {found} of the {epochs} epochs of its run")
    return curves


def _refuse_doubles(folder: Path, runs: Mapping[Path, Mapping[str, Any]]) -> None:
    """Raise InputError where a run is a copy of another: it would make the spread too small."""
    names: dict[str, str] = {}
    for run, meta in runs.items():
        seed = str(meta["config"]["seeds"])
        if seed in names:
            raise InputError(
                f"'{folder}': {names[seed]} and {run.name} are runs of one seed, "
                f"{seed.strip('[]')}; move one of them away"
            )
        names[seed] = run.name


def _number(run: Path) -> int:
    number = run.name.removeprefix("seed-")
    return int(number) if number.isdecimal() else 0


def _read_meta(run: Path) -> dict[str, Any] | None:
    path = run / "last" / "meta.json"
    if not path.exists():
        return None
    with refusing(path, "damaged or not of tools/train_cls.py"):
        meta: dict[str, Any] = read_json(path, LARGEST_DESCRIPTION)
        task = meta["task"]
        config = meta["config"]
        _ = config["train"]["epochs"] - meta["epoch"], config["seeds"], meta["classes"]
        _ = dict(meta["model"]), _compared(meta)
    if task != "classification":
        raise InputError(f"'{run}' is not a run of tools/train_cls.py")
    return meta


def _refuse_differences(folder: Path, first: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    before, after = _compared(first), _compared(other)
    changed = [k for k in {**before, **after} if before.get(k) != after.get(k)]
    if changed:
        raise InputError(
            f"the seeds of '{folder}' were trained by different settings: "
            + first_few(f"{k} is {before.get(k)} and {after.get(k)}" for k in changed)
        )


def _compared(meta: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flat(meta["config"]).items() if key not in _NOT_COMPARED}


def compare_groups(groups: Sequence[Group]) -> Comparison:
    """Name and compare groups, `attention: none` first; raises InputError where they cannot be.

    Those without a finished seed are left out, and said.
    """
    begun = [group for group in groups if not group.curves]
    finished = [group for group in groups if group.curves]
    if not finished:
        words = first_few(f"'{group.folder}': {first_few(group.unfinished)}" for group in begun)
        raise InputError(f"no run is finished: {words}; go on with --resume")
    _refuse_other_images(finished)
    ordered = sorted(finished, key=lambda group: group.settings.get("attention") != "none")
    named = dict(zip(_names(ordered), ordered, strict=True))
    rows = [
        Row(
            name,
            len(group.curves),
            spread_of(group.last_accuracies),
            spread_of(group.last_losses),
            spread_of(group.best_accuracies),
        )
        for name, group in named.items()
    ]
    return Comparison(
        named,
        rows,
        compare_means({name: group.last_accuracies for name, group in named.items()}),
        compare_means({name: group.last_losses for name, group in named.items()}),
        _notes({**named, **{f"'{group.folder}'": group for group in begun}}),
    )


def _refuse_other_images(groups: Sequence[Group]) -> None:
    first = groups[0]
    for group in groups[1:]:
        keys = [k for k in _TESTED_ON if group.settings.get(k) != first.settings.get(k)]
        if keys or group.meta["classes"] != first.meta["classes"]:
            words = [f"{k} is {first.settings.get(k)} and {group.settings.get(k)}" for k in keys]
            raise InputError(
                f"'{first.folder}' and '{group.folder}' were tested on different images or "
                f"classes{': ' if words else ''}{first_few(words)}"
            )


def _names(groups: Sequence[Group]) -> list[str]:
    """Call groups by the settings they differ in; by their folders where they differ in none."""
    keys = {key: None for group in groups for key in group.settings}
    differing = [
        key for key in keys if len({repr(group.settings.get(key)) for group in groups}) > 1
    ]
    names = [
        " ".join(
            str(group.settings.get(key))
            if key in {"attention", "model"}
            else f"{key}={group.settings.get(key)}"
            for key in differing
        )
        for group in groups
    ]
    return names if len(set(names)) == len(groups) and all(names) else _folder_names(groups)


def _folder_names(groups: Sequence[Group]) -> list[str]:
    names = [str(group.folder) for group in groups]
    places = [group.folder.resolve() for group in groups]
    twice = {name for name, place in zip(names, places, strict=True) if places.count(place) > 1}
    if twice:
        raise InputError(f"given twice: {first_few(sorted(twice))}")
    return names if len(groups) > 1 else [str(groups[0].settings.get("attention"))]


def _notes(named: Mapping[str, Group]) -> list[str]:
    """Say what is missing from the set, and what the best epoch is worth."""
    notes = [
        f"{name}: not finished and left out: {first_few(group.unfinished)}."
        for name, group in named.items()
        if group.unfinished
    ]
    diverged = [
        f"{name} ({lost} of {len(group.curves)} seeds)"
        for name, group in named.items()
        if (lost := sum(not math.isfinite(loss) for loss in group.last_losses))
    ]
    if diverged:
        notes.append(f"The loss is not finite after the last epoch: {first_few(diverged)}.")
    counts = {name: len(group.curves) for name, group in named.items()}
    if len(set(counts.values())) > 1:
        words = ", ".join(f"{name} {count}" for name, count in counts.items())
        notes.append(f"The set is incomplete, finished seeds are: {words}.")
    single = [name for name, count in counts.items() if count == 1]
    if single:
        notes.append(f"One seed has no spread, so nothing can be tested: {first_few(single)}.")
    if not all(curve.held_out for group in named.values() for curve in group.curves):
        notes.append(
            "The best epoch was chosen by the test images, which flatters it: compare the last."
        )
    return notes
