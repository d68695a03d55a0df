"""Recognise what the paths of `compare` hold, and read evaluations."""

from collections.abc import Sequence
from pathlib import Path

from sceneparse.errors import InputError, first_few, refusing
from sceneparse.evaluation.compare import require_same_images
from sceneparse.evaluation.folders import find_scores, split_name
from sceneparse.evaluation.result import COUNTS_FILE, read_evaluation
from sceneparse.files import MAX_DESCRIPTION, inside, read_json
from sceneparse.models.stored import META_FILE, step_folders
from sceneparse.studies.rows import FinishedRun, read_run
from sceneparse.studies.seeds import seed_folders

CLASSIFIERS, EVALUATIONS = "classifiers", "evaluations"
# Default folders of the results.
OUTPUTS = {CLASSIFIERS: Path("runs/compare_cls"), EVALUATIONS: Path("runs/compare_eval")}
_CLASSIFIER, _STUDY, _COMPARISON = "a classifier", "a study", "a comparison"


def recognise(paths: Sequence[Path], output: Path | None) -> tuple[str, list[Path], list[Path]]:
    """Return CLASSIFIERS or EVALUATIONS, the paths to compare, and the skipped earlier comparisons.

    Raises InputError if some are classifiers and others segmentation models. A folder without any
    run counts as a classifier, whose reader names what is missing.
    """
    own = {place.resolve() for place in (output, *OUTPUTS.values()) if place is not None}
    # An output folder counts as a comparison even if that was interrupted and left nothing.
    found = {
        path: _recognise(path) or (_COMPARISON if path.resolve() in own else "") for path in paths
    }
    skipped = [path for path in found if found[path] == _COMPARISON]
    left = [path for path in paths if path not in skipped]
    if not left:
        raise InputError(f"{first_few(skipped)}: results of earlier comparisons; give runs")
    kinds = {
        CLASSIFIERS if found[path] == _CLASSIFIER else EVALUATIONS for path in left if found[path]
    }
    if len(kinds) > 1:
        names = (f"'{path}' is {found[path] or 'neither'}" for path in left)
        raise InputError(
            "classifiers and segmentation models cannot be compared: " + first_few(names, 20)
        )
    runs = [run for path in left for run in (_rows_of(path) if found[path] == _STUDY else [path])]
    return kinds.pop() if kinds else CLASSIFIERS, runs, skipped


def _recognise(path: Path) -> str:
    """Name the content of a folder; "" if it holds no run, evaluation, study or comparison."""
    if (path / COUNTS_FILE).is_file():
        return "an evaluation"
    if (path / "study.json").is_file():
        return _STUDY
    for run in [path, *seed_folders(path)]:
        if any(run.glob(f"eval_*/{COUNTS_FILE}")):
            return "a segmentation run"
        for newest in step_folders(run)[:1]:
            return _recognise_run(newest / META_FILE)
    return _COMPARISON if (path / "compare.json").is_file() else ""


def _recognise_run(meta: Path) -> str:
    with refusing(meta, "damaged or not of a run"):
        task = read_json(meta, MAX_DESCRIPTION)["task"]
    return _CLASSIFIER if task == "classification" else "a segmentation run"


def _rows_of(study: Path) -> list[Path]:
    """List the rows of a study, in their order."""
    path = study / "study.json"
    entries = read_json(path, MAX_DESCRIPTION)
    with refusing(path, "damaged or not of a study"):
        rows = dict.fromkeys(str(entry["config"]) for entry in entries)
    return [inside(study, row, path) for row in rows]


def read_runs(paths: Sequence[Path], split: str | None) -> tuple[list[FinishedRun], list[str]]:
    """Read the evaluations of each path, or of its seeds; return notes on skipped seeds too.

    Raises InputError if evaluations are not of the same images, or if a path has none.
    """
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    is_twice = len({path.resolve() for path in paths}) < len(paths)
    if is_twice and (len(paths) > 2 or any(seed_folders(path) for path in paths)):
        raise InputError("one of the paths is given twice")
    pattern = f"eval_{'*' if split is None else split_name(split)}/{COUNTS_FILE}"
    found: list[tuple[str, int | None, Path]] = []
    notes = []
    for name, path in zip(names, paths, strict=True):
        seeds = seed_folders(path)
        tested = [seed for seed in seeds if any(seed.glob(pattern))]
        if tested and len(tested) < len(seeds):
            lost = first_few(seed.name for seed in seeds if seed not in tested)
            notes.append(f"{name}: not evaluated and skipped: {lost}.")
        for folder in tested or seeds[:1] or [path]:
            number = folder.name.removeprefix("seed-")
            seed = int(number) if seeds and number.isdecimal() else None
            found.append((name, seed, folder))
    scores = find_scores([folder for *_, folder in found], split)
    runs = []
    for (name, seed, _), folder in zip(found, scores, strict=True):
        runs.append(read_run(name, seed, read_evaluation(folder)))
        require_same_images(runs[0].scores, runs[-1].scores)
    return runs, notes
