"""What paths given to `compare` hold: classifiers, or evaluations of segmentation models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sceneparse.errors import InputError, first_few, refusing
from sceneparse.evaluation.compare import find_scores, require_same_images
from sceneparse.evaluation.result import COUNTS_FILE, read_evaluation
from sceneparse.files import LARGEST_DESCRIPTION, read_json
from sceneparse.studies.classifiers import seed_folders
from sceneparse.studies.rows import FinishedRun, read_run

CLASSIFIERS, EVALUATIONS = "classifiers", "evaluations"
# Where results go if nothing else is asked for.
OUTPUTS = {CLASSIFIERS: Path("runs/compare_cls"), EVALUATIONS: Path("runs/compare_eval")}
_STUDY, _COMPARISON = "a study", "a comparison"
_COMPARED_AS = {
    "a classifier": CLASSIFIERS,
    "a segmentation run": EVALUATIONS,
    "an evaluation": EVALUATIONS,
    _STUDY: EVALUATIONS,
}


class Recognised(NamedTuple):
    """How paths are compared (CLASSIFIERS or EVALUATIONS), which, and which are left out."""

    kind: str
    paths: list[Path]
    skipped: list[Path]


def recognise(paths: Sequence[Path], output: Path | None) -> Recognised:
    """Find out what the paths are; results of earlier comparisons are left out.

    Raises InputError if some are classifiers and others segmentation models. What holds no run at
    all counts as a classifier: whoever reads it says what is missing.
    """
    own = {place.resolve() for place in (output, *OUTPUTS.values()) if place is not None}
    found = {path: _what_is(path) for path in paths}
    # An own folder that was broken off is still empty.
    found |= {path: found[path] or _COMPARISON for path in paths if path.resolve() in own}
    skipped = [path for path in found if found[path] == _COMPARISON]
    left = [path for path in paths if path not in skipped]
    if not left:
        raise InputError(f"{first_few(skipped)}: results of earlier comparisons; give runs")
    kinds = {_COMPARED_AS[found[path]] for path in left if found[path]}
    if len(kinds) > 1:
        words = (f"'{path}' is {found[path] or 'neither'}" for path in left)
        raise InputError(
            "classifiers and segmentation models cannot be compared: " + first_few(words, 20)
        )
    return Recognised(
        kinds.pop() if kinds else CLASSIFIERS,
        [row for path in left for row in (_rows_of(path) if found[path] == _STUDY else [path])],
        skipped,
    )


def _what_is(path: Path) -> str:
    """Name what a folder holds by its files; "" if it is no run, evaluation or comparison."""
    if (path / COUNTS_FILE).is_file():
        return "an evaluation"
    if (path / "study.json").is_file():
        return _STUDY
    for run in [path, *seed_folders(path)]:
        if any(run.glob(f"eval_*/{COUNTS_FILE}")):
            return "a segmentation run"
        for meta in (run / "last/meta.json", run / "best/meta.json"):
            if meta.is_file():
                description = read_json(meta, LARGEST_DESCRIPTION)
                with refusing(meta, "damaged or not of a run"):
                    is_classifier = description["task"] == "classification"
                return "a classifier" if is_classifier else "a segmentation run"
    return _COMPARISON if (path / "compare.json").is_file() else ""


def _rows_of(study: Path) -> list[Path]:
    """List the rows of a study, in their order."""
    path = study / "study.json"
    entries = read_json(path, LARGEST_DESCRIPTION)
    with refusing(path, "damaged or not of a study"):
        return [study / row for row in dict.fromkeys(str(entry["config"]) for entry in entries)]


def read_runs(paths: Sequence[Path], split: str | None) -> tuple[list[FinishedRun], list[str]]:
    """Read the evaluations of each path: of its seeds, if it has some, or its only one.

    Returns notes on seeds that have no evaluation too. Raises InputError if evaluations are not of
    the same images, or if a path has none.
    """
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    if len(paths) > 2 and len(set(names)) < len(names):
        raise InputError("one of the paths is given twice")
    runs, notes = [], []
    for name, path in zip(names, paths, strict=True):
        seeds = seed_folders(path)
        pattern = f"eval_{'*' if split is None else Path(split).stem}/{COUNTS_FILE}"
        tested = [seed for seed in seeds if any(seed.glob(pattern))]
        if tested and len(tested) < len(seeds):
            lost = first_few(seed.name for seed in seeds if seed not in tested)
            notes.append(f"{name}: not evaluated and left out: {lost}.")
        for folder in tested or seeds[:1] or [path]:
            number = folder.name.removeprefix("seed-")
            seed = int(number) if seeds and number.isdecimal() else None
            scores = read_evaluation(find_scores(folder, split))
            of_study = "seconds" in scores.how
            run = FinishedRun(name, seed, scores, {}, {})
            runs.append(read_run(name, seed, scores) if of_study else run)
            require_same_images(runs[0].scores, scores)
    return runs, notes
