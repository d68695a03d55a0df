"""Comparison of classifiers: groups of seeds, tests of all pairs, verdicts, tables and a page."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sceneparse.errors import InputError, first_few, refusing
from sceneparse.files import MAX_DESCRIPTION, read_json
from sceneparse.metrics.significance import MeanDifference, compare_means
from sceneparse.models.stored import META_FILE, step_folders
from sceneparse.report.pages import figure_uri, write_page
from sceneparse.report.plots import save_plot
from sceneparse.report.tables import Table, p_word, points, span, verdict_word, write_json
from sceneparse.runs.folder import flat
from sceneparse.studies.costs import Costs, cost_table, draw_trade_offs
from sceneparse.studies.seeds import (
    SeedCurves,
    Spread,
    draw_curves,
    read_seed,
    seed_folders,
    spreads_of,
)

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
    def gains(self) -> list[MeanDifference]:
        """The gain in accuracy of each other group over the first."""
        return [pair for pair in self.pairs["accuracy"] if pair.first == next(iter(self.groups))]


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
        done, epochs = (meta["epoch"], meta["config"]["train"]["epochs"]) if meta else (0, "?")
        if meta is None or meta["epoch"] < epochs:
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
    if changed := _differing([*map(_compared, metas)]).values():
        raise InputError(
            f"the seeds of '{folder}' were trained by different settings: {first_few(changed)}"
        )
    curves = [
        read_seed(run, epochs=meta["config"]["train"]["epochs"]) for run, meta in finished.values()
    ]
    return Group(folder, curves, unfinished, metas[0] if metas else {})


def _read_meta(run: Path) -> dict[str, Any] | None:
    newest = next(iter(step_folders(run)), None)
    if newest is None:
        return None
    path = newest / META_FILE
    with refusing(path, "damaged or not of `sceneparse classify`"):
        meta: dict[str, Any] = read_json(path, MAX_DESCRIPTION)
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
    unfinished = {f"'{group.folder}'": group for group in groups if not group.curves}
    if not finished:
        seeds = first_few(
            f"{name}: {first_few(group.unfinished)}" for name, group in unfinished.items()
        )
        raise InputError(f"no run is finished: {seeds}; resume with --resume")
    for group in finished[1:]:
        _require_same_images(finished[0], group)
    ordered = sorted(finished, key=lambda group: group.settings.get("attention") != "none")
    named = dict(zip(_names(ordered), ordered, strict=True))
    pairs = {
        measure: compare_means({name: g.spreads[measure].values for name, g in named.items()})
        for measure in ("accuracy", "loss")
    }
    return Comparison(named, pairs, _notes({**named, **unfinished}))


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
    settings = [group.settings for group in groups]
    keys = _differing(settings)
    heads = {key: "" if key in {"attention", "model"} else f"{key}=" for key in keys}
    names = [" ".join(f"{heads[key]}{own.get(key)}" for key in keys) for own in settings]
    if len(set(names)) == len(groups) and all(names):
        return names
    places = [group.folder.resolve() for group in groups]
    if twice := {str(group.folder) for group in groups if places.count(group.folder.resolve()) > 1}:
        raise InputError(f"given twice: {first_few(sorted(twice))}")
    if len(groups) == 1:
        return [str(settings[0].get("attention"))]
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


def verdicts(comparison: Comparison) -> list[str]:
    """Describe how each group differs from the first, and by which test."""
    lines = [_verdict(pair) for pair in comparison.gains]
    if pairs := sum(pair.tested for pair in comparison.pairs["accuracy"]):
        lines.append(
            f"Welch's test on seeds, Holm's correction for {pairs} pair{'s' * (pairs > 1)}; "
            "intervals are of each pair alone. The test is about other seeds on the same test "
            "images, not about other images; not separated does not mean equal."
        )
    return lines


def _verdict(pair: MeanDifference) -> str:
    gain = f"{pair.second}: {points(pair.value)} points of accuracy over {pair.first}"
    if not pair.tested:
        return f"{gain}; not tested (too few seeds, or no spread)."
    chance = f"95% interval {span(pair)}, p {p_word(pair.adjusted)} after Holm"
    better = f": {'better' if pair.value > 0 else 'worse'}" if pair.separated else ""
    return f"{gain} ({chance}); {verdict_word(pair)}{better}."


def tables_of(comparison: Comparison, costs: Mapping[str, Costs]) -> list[Table]:
    """Lay out scores, pairs and costs; tables without rows are skipped."""
    tables = [
        _score_table(comparison),
        _pair_table("Accuracy, every pair (points)", comparison.pairs["accuracy"], points),
        _pair_table("Loss, every pair", comparison.pairs["loss"], "{:+.4f}".format),
        cost_table(comparison.gains, costs),
    ]
    return [table for table in tables if table.rows]


def _score_table(comparison: Comparison) -> Table:
    heads = ["", "seeds", "accuracy", "sd", "95% interval"]
    heads += ["loss", "sd", "95% interval", "best epoch"]
    rows = [
        [
            name,
            str(len(group.curves)),
            *group.spreads["accuracy"].cells("{:.2%}".format),
            *group.spreads["loss"].cells("{:.4f}".format),
            f"{group.spreads['best_accuracy'].mean:.2%}",
        ]
        for name, group in comparison.groups.items()
    ]
    return Table("On the test images, after the last epoch", heads, rows)


def _pair_table(title: str, pairs: list[MeanDifference], write: Callable[[float], str]) -> Table:
    heads = ["", "difference", "95% interval", "p", "p after Holm", "verdict"]
    rows = [
        [
            f"{pair.second} - {pair.first}",
            write(pair.value),
            span(pair, write) if pair.tested else "-",
            p_word(pair.p_value),
            p_word(pair.adjusted),
            verdict_word(pair),
        ]
        for pair in pairs
    ]
    return Table(title, heads, rows)


def write_comparison(
    folder: Path,
    comparison: Comparison,
    costs: Mapping[str, Costs],
    facts: Mapping[str, str],
) -> None:
    """Write compare.html, compare.json and the plots; `facts` tell how costs were measured."""
    groups = comparison.groups
    accuracies = {name: group.spreads["accuracy"] for name, group in groups.items()}
    label = "test accuracy (%), last epoch"
    figures = {
        "Curves": draw_curves({name: group.curves for name, group in groups.items()}),
        "Accuracy against cost": draw_trade_offs(accuracies, costs, label),
    }
    for title, figure in figures.items():
        save_plot(figure, folder / title.lower().replace(" ", "_"))
    texts = {"verdicts": verdicts(comparison), "notes": comparison.notes, "facts": facts}
    page = {
        "title": "Comparison of classifiers",
        "tables": tables_of(comparison, costs),
        "plots": {title: figure_uri(figure) for title, figure in figures.items()},
    }
    write_page("comparison.html", folder / "compare.html", {**page, **texts})
    measures = ("accuracy", "loss", "best_accuracy")
    values = [
        {
            "name": name,
            "folder": str(group.folder),
            "seeds": [curve.seed for curve in group.curves],
            **{key: asdict(group.spreads[key]) for key in measures},
            "costs": costs[name],
        }
        for name, group in groups.items()
    ]
    pairs = {key: [*map(_pair_values, pairs)] for key, pairs in comparison.pairs.items()}
    write_json(folder / "compare.json", {"groups": values, **pairs, **texts})


def _pair_values(pair: MeanDifference) -> dict[str, Any]:
    values = asdict(pair)
    values |= {"difference": values.pop("value"), "holm_p_value": values.pop("adjusted")}
    return {**values, "separated": pair.separated}
