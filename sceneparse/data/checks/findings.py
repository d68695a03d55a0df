"""Conclusions about a checked dataset: problems, and notes with what to do about them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sceneparse.data.checks.duplicates import similar_groups
from sceneparse.data.checks.full import SampleFacts, by_split
from sceneparse.data.checks.traits import TRAITS
from sceneparse.data.labels import LabelTable
from sceneparse.data.sample_checks import absent_classes, describe_absent, why_unusable
from sceneparse.errors import first_few

# Splits whose names start so are not trained on.
_HELD_OUT = ("val", "test", "holdout", "eval", "dev")
# 16-bit images that use at most _FEW_BITS are too dark; at most _BYTE fit into 8-bit files.
_BYTE, _FEW_BITS = 8, 14


def training_split(splits: Sequence[str]) -> str | None:
    """Return the first split, unless its name says that it is not for training."""
    stem = Path(splits[0]).stem.casefold()
    return None if stem.startswith(_HELD_OUT) else splits[0]


def class_problems(summary: Mapping[str, Any], table: LabelTable, layout: str) -> list[str]:
    """Return the splits that cannot be learned from, and classes that training would not see.

    A class without a training pixel is a problem of a dataset with its own classes only: a part of
    a public one (`layout` is its name) may lack some.
    """
    splits = summary["splits"]
    found = {split: _train_ids(facts, table) for split, facts in splits.items()}
    useless = useless_splits(summary, table, layout)
    problems = [f"{split}: {reason}" for split, reason in useless.items()]
    trained = training_split(list(splits))
    if trained is None or layout != "folder" or trained in useless or not splits[trained]["usable"]:
        return problems
    if absent := absent_classes(found[trained], table):
        where = f"the training split '{trained}'"
        problems.append(describe_absent(absent, table, where) + _elsewhere(absent, found, table))
    return problems


def useless_splits(summary: Mapping[str, Any], table: LabelTable, layout: str) -> dict[str, str]:
    """Return the splits that cannot be learned from, and why."""
    useless = {}
    for split, facts in summary["splits"].items():
        usable = facts["usable"]
        if usable and (reason := why_unusable(_train_ids(facts, table), table, layout, usable)):
            useless[split] = reason
    return useless


def _train_ids(facts: Mapping[str, Any], table: LabelTable) -> set[int]:
    found = {k for k, row in enumerate(facts["classes"]) if row["pixels"]}
    return found | ({table.ignore_index} if facts["ignored_pixels"] else set())


def _elsewhere(absent: Sequence[str], found: Mapping[str, set[int]], table: LabelTable) -> str:
    parts = []
    for split, ids in found.items():
        if names := [name for name in absent if table.names.index(name) in ids]:
            parts.append(f"'{split}' shows {first_few(names)}")
    return f" ({'; '.join(parts)})" if parts else ""


def note(text: str, remedy: str, files: Sequence[Path] = ()) -> dict[str, Any]:
    """Return a note of the report: what was found, what to do, and the first files."""
    return {"note": text, "remedy": remedy, "files": [str(path) for path in files[:20]]}


def notes(
    facts: Sequence[SampleFacts], summary: Mapping[str, Any], table: LabelTable, layout: str
) -> list[dict[str, Any]]:
    """Return what is worth knowing, although training would work."""
    found = []
    for name, trait in TRAITS.items():
        files = [f.pair.image for f in facts if name in f.traits]
        if files:
            found.append(note(f"{len(files)} images {trait.text}", trait.remedy, files))
    found += _bit_depths(facts)
    below = [f.pair.image for f in facts if "/" in f.pair.name]
    if below and layout == "folder":
        text = f"{len(below)} images lie in sub-folders; results are named by their path"
        found.append(note(text, "nothing: masks lie in sub-folders of the same names", below))
    if trained := training_split(list(summary["splits"])):
        found += _look_alikes(trained, by_split(facts)[trained])
    absent = absent_classes(_train_ids(next(iter(summary["splits"].values())), table), table)
    if absent and layout != "folder":
        text = f"no pixel of {len(absent)} of {table.num_classes} classes: {first_few(absent)}"
        found.append(note(text, "use the whole dataset if these classes are to be learned"))
    return found


def _bit_depths(facts: Sequence[SampleFacts]) -> list[dict[str, Any]]:
    deep = [f for f in facts if f.bits[0] == 16 and f.problem is None]
    used = max((f.bits[1] for f in deep), default=16)
    if not deep or used > _FEW_BITS:
        return []
    text = (
        f"{len(deep)} images are stored with 16 bits but use only {used}: "
        f"read as 16 bits they are almost black (1/{2 ** (16 - used)} of the brightness)"
    )
    depth = next(depth for depth in (9, 10, 12, 14) if depth >= used)
    remedy = f"set data.bit_depth={depth} for training (check: --bit-depth {depth})"
    files = [f.pair.image for f in deep]
    return [note(text, remedy if used > _BYTE else "save them with 8 bits", files)]


def _look_alikes(split: str, facts: Sequence[SampleFacts]) -> list[dict[str, Any]]:
    groups = similar_groups([f.fingerprint for f in facts])
    largest = max(groups, key=len)
    similar = sum(len(group) for group in groups if len(group) > 1)
    if len(largest) == 1:
        return []
    text = f"{split}: {similar} of {len(facts)} images look like another one of the split"
    remedy = "keep one of each: sceneparse convert ... --near-duplicates drop"
    if len(largest) >= len(facts) / 2:
        text = (
            f"{split}: {len(largest)} of {len(facts)} images look alike: a fixed camera or a "
            "video? The network will know this view well and others badly"
        )
        remedy = f"add images of other places, or {remedy}"
    return [note(text, remedy, [facts[i].pair.image for i in largest])]
