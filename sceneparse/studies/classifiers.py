"""Comparison of classifiers: groups of seeds, and tests of every pair of groups."""

from __future__ import annotations

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

# Settings that may differ between the seeds of a group.
_NOT_COMPARED = ("output", "seeds", "data.root")
# Settings of the test images, which must be the same in all groups.
_TESTED_ON = ("data.dataset", "data.test_split", "data.size")


@dataclass(frozen=True)
class Group:
    """The seeds of one configuration: curves of the finished ones, descriptions of the others.

    `meta`: model, classes and configuration, from the checkpoint of a finished run.
    """

    folder: Path
    curves: list[SeedCurves]
    unfinished: list[str]
    meta: Mapping[str, Any]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings that all seeds share, by dotted key."""
        return _compared(self.meta)

    @cached_property
    def spreads(self) -> dict[str, Spread]:
        """Accuracy and loss of the last and of the best epoch over the seeds."""
        return spreads_of(self.curves)


@dataclass(frozen=True)
class Comparison:
    """Groups by name, the tests of all pairs by accuracy and by loss, and notes for the reader."""

    groups: dict[str, Group]
    pairs: dict[str, list[MeanDifference]]
    notes: list[str]

    @property
    def first(self) -> str:
        """Name of the group that the others are compared with."""
        return next(iter(self.groups))

    @property
    def gains(self) -> list[MeanDifference]:
        """The gain in accuracy of each other group over the first."""
        return [pair for pair in self.pairs["accuracy"] if pair.first == self.first]


def seed_folders(folder: Path) -> list[Path]:
    """Return the runs of a configuration, FOLDER/seed-N, by number."""
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
        if meta is None:
            unfinished.append(f"{run.name} (0 of ? epochs)")
            continue
        done, epochs = meta["epoch"], meta["config"]["train"]["epochs"]
        if done < epochs:
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
    if changed := _differing([_compared(meta) for meta in metas]).values():
        raise InputError(
            f"the seeds of '{folder}' were trained by different settings: {first_few(changed)}"
        )
    curves = [
        read_seed(run, epochs=meta["config"]["train"]["epochs"]) for run, meta in finished.values()
    ]
    return Group(folder, curves, unfinished, metas[0] if metas else {})


def _read_meta(run: Path) -> dict[str, Any] | None:
    path = run / "last/meta.json"
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

    Groups without a finished seed are skipped, with a note.
    """
    finished = [group for group in groups if group.curves]
    begun = {f"'{group.folder}'": group for group in groups if not group.curves}
    if not finished:
        seeds = first_few(f"{name}: {first_few(group.unfinished)}" for name, group in begun.items())
        raise InputError(f"no run is finished: {seeds}; resume with --resume")
    for group in finished[1:]:
        _require_same_images(finished[0], group)
    ordered = sorted(finished, key=lambda group: group.settings.get("attention") != "none")
    named = dict(zip(_names(ordered), ordered, strict=True))
    pairs = {
        measure: compare_means({name: g.spreads[measure].values for name, g in named.items()})
        for measure in ("accuracy", "loss")
    }
    return Comparison(named, pairs, _notes({**named, **begun}))


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
    keys = _differing([group.settings for group in groups])
    heads = {key: "" if key in {"attention", "model"} else f"{key}=" for key in keys}
    names = [
        " ".join(f"{head}{group.settings.get(key)}" for key, head in heads.items())
        for group in groups
    ]
    if len(set(names)) == len(groups) and all(names):
        return names
    places = [group.folder.resolve() for group in groups]
    twice = {str(group.folder) for group in groups if places.count(group.folder.resolve()) > 1}
    if twice:
        raise InputError(f"given twice: {first_few(sorted(twice))}")
    if len(groups) == 1:
        return [str(groups[0].settings.get("attention"))]
    return [str(group.folder) for group in groups]


def _notes(named: Mapping[str, Group]) -> list[str]:
    """List the skipped seeds, and warn of a best epoch that the test images chose."""
    notes = [
        f"{name}: not finished and skipped: {first_few(group.unfinished)}."
        for name, group in named.items()
        if group.unfinished
    ]
    if not all(curve.held_out for group in named.values() for curve in group.curves):
        notes.append(
            "The best epoch was chosen by the test images, which flatters it: compare the last."
        )
    return notes
