"""Classifiers side by side: groups of seeds, and which differences between them are separated."""

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
from sceneparse.runs.folder import flat
from sceneparse.studies.seeds import SeedCurves, Spread, read_seed, spreads_of

# Settings that differ between seeds, or tell where things are.
_NOT_COMPARED = ("output", "seeds", "data.root")
# Nets can be compared if these are the same: the images they are tested on.
_TESTED_ON = ("data.dataset", "data.test_split", "data.size")
_TESTED = ("accuracy", "loss")


@dataclass(frozen=True)
class Group:
    """The seeds of one configuration: curves of the finished ones, and words about the others.

    `meta` is the description in a finished run's checkpoint: model, classes, configuration.
    """

    folder: Path
    curves: list[SeedCurves]
    unfinished: list[str]
    meta: Mapping[str, Any]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The configuration without what differs between seeds, keys dotted."""
        return _compared(self.meta)

    @cached_property
    def spreads(self) -> dict[str, Spread]:
        """Over the seeds: accuracy and loss of the last epoch, and of the best one."""
        return spreads_of(self.curves)


@dataclass(frozen=True)
class Comparison:
    """Groups by name, their pairs tested by accuracy and loss, and what a reader must know."""

    groups: dict[str, Group]
    pairs: dict[str, list[MeanDifference]]
    notes: list[str]

    @property
    def first(self) -> str:
        """Name of the group that the others are measured against."""
        return next(iter(self.groups))

    @property
    def gains(self) -> list[MeanDifference]:
        """How much more accurate than the first each of the other groups is."""
        return [pair for pair in self.pairs["accuracy"] if pair.first == self.first]


def seed_folders(folder: Path) -> list[Path]:
    """Find the runs of a configuration: FOLDER/seed-N, by number."""
    runs = [path for path in folder.glob("seed-*") if path.is_dir()]
    return sorted(runs, key=lambda run: (len(run.name), run.name))


def read_group(folder: Path) -> Group:
    """Read the output folder of `sceneparse classify` (or the folder of one seed).

    Raises InputError if it is none, if its seeds were trained by different settings, or if two of
    them are the same run: a copy would make the spread too small.
    """
    runs = [folder] if (folder / "metrics.jsonl").is_file() else seed_folders(folder)
    if not runs:
        raise InputError(
            f"'{folder}' holds no runs of `sceneparse classify` (seed-N) and no evaluation"
        )
    finished: dict[str, tuple[Path, dict[str, Any]]] = {}
    unfinished = []
    for run in runs:
        meta = _read_meta(run)
        done: int = meta["epoch"] if meta else 0
        epochs: Any = meta["config"]["train"]["epochs"] if meta else "?"
        if meta is None or done < epochs:
            unfinished.append(f"{run.name} ({done} of {epochs} epochs)")
            continue
        seed = str(meta["config"]["seeds"]).strip("[]")
        if seed in finished:
            raise InputError(
                f"'{folder}': {finished[seed][0].name} and {run.name} are runs of one seed, "
                f"{seed}; move one of them away"
            )
        finished[seed] = run, meta
    metas = [meta for _, meta in finished.values()]
    changed = _differing([_compared(meta) for meta in metas]).values()
    if changed:
        raise InputError(
            f"the seeds of '{folder}' were trained by different settings: {first_few(changed)}"
        )
    curves = [_read_curves(run, meta) for run, meta in finished.values()]
    return Group(folder, curves, unfinished, metas[0] if metas else {})


def _read_meta(run: Path) -> dict[str, Any] | None:
    path = run / "last" / "meta.json"
    if not path.exists():
        return None
    with refusing(path, "damaged or not of `sceneparse classify`"):
        meta: dict[str, Any] = read_json(path, LARGEST_DESCRIPTION)
        task, config = meta["task"], meta["config"]
        _ = config["train"]["epochs"] - meta["epoch"], config["seeds"], meta["classes"]
        _ = dict(meta["model"]), _compared(meta)
    if task != "classification":
        raise InputError(f"'{run}' is not a run of `sceneparse classify`")
    return meta


def _read_curves(run: Path, meta: Mapping[str, Any]) -> SeedCurves:
    curves, epochs = read_seed(run), meta["config"]["train"]["epochs"]
    found = len(curves.test_accuracy)
    if found != epochs:
        raise InputError(f"{run / 'metrics.jsonl'} holds {found} of the {epochs} epochs of its run")
    return curves


def _compared(meta: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flat(meta["config"]).items() if key not in _NOT_COMPARED}


def _differing(settings: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the keys whose values differ, each with a phrase that names the values."""
    keys = dict.fromkeys(key for each in settings for key in each)
    values = {key: [each.get(key) for each in settings] for key in keys}
    return {
        key: f"{key} is {' and '.join(dict.fromkeys(map(str, found)))}"
        for key, found in values.items()
        if any(value != found[0] for value in found)
    }


def compare_groups(groups: Sequence[Group]) -> Comparison:
    """Name and compare groups, `attention: none` first; raises InputError if they cannot be.

    Groups without a finished seed are left out, and a note says so.
    """
    begun = [group for group in groups if not group.curves]
    finished = [group for group in groups if group.curves]
    if not finished:
        words = first_few(f"'{group.folder}': {first_few(group.unfinished)}" for group in begun)
        raise InputError(f"no run is finished: {words}; go on with --resume")
    for group in finished[1:]:
        _require_same_images(finished[0], group)
    ordered = sorted(finished, key=lambda group: group.settings.get("attention") != "none")
    named = dict(zip(_names(ordered), ordered, strict=True))
    pairs = {
        measure: compare_means({name: g.spreads[measure].values for name, g in named.items()})
        for measure in _TESTED
    }
    notes = _notes({**named, **{f"'{group.folder}'": group for group in begun}})
    return Comparison(named, pairs, notes)


def _require_same_images(first: Group, other: Group) -> None:
    both = [{key: group.settings.get(key) for key in _TESTED_ON} for group in (first, other)]
    changed = _differing(both).values()
    if changed or first.meta["classes"] != other.meta["classes"]:
        raise InputError(
            f"'{first.folder}' and '{other.folder}' were tested on different images or "
            f"classes{': ' if changed else ''}{first_few(changed)}"
        )


def _names(groups: Sequence[Group]) -> list[str]:
    """Name groups by the settings they differ in; by their folders if they differ in none."""

    def word(key: str, value: object) -> str:
        return str(value) if key in {"attention", "model"} else f"{key}={value}"

    keys = _differing([group.settings for group in groups])
    names = [" ".join(word(key, group.settings.get(key)) for key in keys) for group in groups]
    if len(set(names)) == len(groups) and all(names):
        return names
    folders = [str(group.folder) for group in groups]
    places = [group.folder.resolve() for group in groups]
    twice = {name for name, place in zip(folders, places, strict=True) if places.count(place) > 1}
    if twice:
        raise InputError(f"given twice: {first_few(sorted(twice))}")
    return folders if len(groups) > 1 else [str(groups[0].settings.get("attention"))]


def _notes(named: Mapping[str, Group]) -> list[str]:
    """List what is missing from the set, and what the best epoch is worth."""
    notes = [
        f"{name}: not finished and left out: {first_few(group.unfinished)}."
        for name, group in named.items()
        if group.unfinished
    ]
    diverged = [
        f"{name} ({lost} of {len(group.curves)} seeds)"
        for name, group in named.items()
        if (lost := sum(not math.isfinite(curve.test_loss[-1]) for curve in group.curves))
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
