"""What becomes of each fault: the tests that inject it are marked `fault(number, ...)`.

`pytest --record-faults` writes results/faults.json and the table in docs/explanation/faults.md.
"""

from __future__ import annotations

import ast
import json
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sceneparse.report.tables import Table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "faults.json"
PAGE = ROOT / "docs" / "explanation" / "faults.md"
BEGIN, END = "<!-- faults: begin -->\n", "<!-- faults: end -->\n"

FAULTS = {
    1: "unknown key in a configuration or on the command line: its path and the nearest name",
    2: "`1e-3` and `1e5` in YAML: floats",
    3: "duplicate YAML key: refused, with its line",
    4: "YAML that runs code: refused",
    5: "settings of wrong type or range: all of them named at once",
    6: "unknown head, backbone, block or dataset: the valid names",
    7: "image cut short, empty, no image, a folder, a dangling link, unreadable: the file is named",
    8: "image that unpacks to gigabytes: refused before it does",
    9: "images of any mode and depth: 8-bit RGB, scaled, not clipped",
    10: "EXIF rotation: one rule for images and masks",
    11: "animated and multi-page files: the first frame, and a log line",
    12: "mask with a palette: its indices",
    13: "mask of 16 bits: exact",
    14: "mask painted in colours: refused, or by a table; unknown colours counted",
    15: "mask with compression noise or soft edges: its values listed",
    16: "mask of 0 and 255 with two classes: the mapping is suggested",
    17: "Cityscapes labelIds for trainIds: recognised, and a log line",
    18: "mask and image of different sizes: both sizes, never resized in silence",
    19: "label out of range or negative: an error before the device sees it",
    20: "files without partner, duplicate names, empty splits, odd lists: counted and named",
    21: "read-only data folder: works",
    22: "image smaller than the crop, down to 1x1: padded and ignored",
    23: "any number of workers: the same batches, and new augmentation in every epoch",
    24: "transforms: invent no labels; padding is ignored",
    25: "misspelt argument of a transform: an error",
    26: "nothing but ignored pixels: loss and gradient 0 in every loss",
    27: "loss or gradient not finite: the step is skipped and logged; exit 3 after too many",
    28: "overflow of float16: neither weights nor schedule move",
    29: "batch norm on one value: refused before training starts",
    30: "counts past 2^24, 2^31: exact",
    31: "classes absent, only predicted, ignored: the rules of the Cityscapes script",
    32: "evaluation by more processes than images: equal counts, no hang",
    33: "scores that are not finite: an error",
    34: "windows of any size: cover everything once",
    35: "more than 256 classes: prediction files of 16 bits",
    36: "killed while saving, at any moment: a loadable checkpoint",
    37: "disk full while saving: the old checkpoint intact, bytes needed and free",
    38: "checkpoint with a flipped bit, cut, empty: logged, and the one before is used",
    39: "killed and resumed: bitwise the uninterrupted run",
    40: "pickle that runs code as weights or checkpoint: refused",
    41: "weights with prefixes, of other classes, with missing keys: strict, summed up",
    42: "resumed with other settings: refused unless asked, and shown",
    43: "two runs in one folder: the second is refused",
    44: "SIGTERM, SIGINT, SIGUSR1 in any phase: saved once, exit 75",
    45: "data worker that raises, dies or hangs: file, cause and remedy",
    46: "/dev/shm of 4 MB, 128 open files: the remedy",
    47: "process of a distributed run killed: all end; torchrun's restart ends the same",
    48: "out of memory: what did not fit and the remedy; a sweep continues",
    49: "read-only output, file names that are not text, no TensorBoard: one line, or it continues",
    50: "imports and --help: no connection",
    51: "export that differs from the model: deleted, exit 1",
}
# Where only a part of a fault can be injected on this machine.
PARTLY = {
    48: "no GPU here: on one, the allocator's error is raised by the test; on the CPU the lack of "
    "memory is real",
}


@dataclass
class Outcome:
    """A fault, whether the tests that inject it passed, and what they leave open."""

    number: int
    fault: str
    outcome: str
    tests: list[str]
    reason: str = ""


@dataclass
class Recorder:
    """A plugin of pytest that counts the outcomes of every test, by its name without parameters."""

    found: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    skipped: dict[str, str] = field(default_factory=dict)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count the call, and whatever else did not pass."""
        name = report.nodeid.partition("[")[0]
        if report.when == "call" or not report.passed:
            self.found[name][report.outcome] += 1
        if report.skipped and isinstance(report.longrepr, tuple):
            self.skipped[name] = str(report.longrepr[2]).removeprefix("Skipped: ")

    def pytest_sessionfinish(self) -> None:
        """Write what became of the faults whose tests all ran; the others keep their entries."""
        written = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
        known = {entry["number"]: entry for entry in written}
        for number, tests in marked_tests().items():
            if number not in known or all(test in self.found for test in tests):
                known[number] = asdict(outcome_of(number, tests, self))
        outcomes = [known[number] for number in FAULTS]
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(outcomes, indent=1) + "\n", encoding="utf-8")
        text = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(with_table(text, page_table(outcomes)), encoding="utf-8")


def marked_tests() -> dict[int, list[str]]:
    """Find the tests that are marked with each number, as pytest names them."""
    found: dict[int, list[str]] = {number: [] for number in FAULTS}
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                for number in _marks(node):
                    found[number].append(f"tests/{path.name}::{node.name}")
    return found


def _marks(function: ast.FunctionDef) -> list[int]:
    return [
        ast.literal_eval(argument)
        for mark in function.decorator_list
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.fault"
        for argument in mark.args
    ]


def outcome_of(number: int, tests: list[str], recorder: Recorder) -> Outcome:
    """Sum up the tests of a fault: failed, proved by those that passed, or not testable."""
    reasons = [PARTLY[number]] if number in PARTLY else []
    reasons += sorted({recorder.skipped[test] for test in tests if test in recorder.skipped})
    counts = sum((recorder.found.get(test, Counter()) for test in tests), Counter[str]())
    word = "proved" if counts["passed"] else "not_testable"
    if counts["failed"]:
        word = "failed"
    return Outcome(number, FAULTS[number], word, tests, "; ".join(reasons))


def page_table(outcomes: list[dict[str, Any]]) -> str:
    """Lay out what results/faults.json holds."""
    rows = []
    for entry in outcomes:
        files = Counter(test.partition("::")[0] for test in entry["tests"])
        tests = ", ".join(f"`{file}`" + f" ({n})" * (n > 1) for file, n in files.items())
        outcome = entry["outcome"].replace("_", " ")
        reason = f": {entry['reason']}" if entry["reason"] else ""
        rows.append([str(entry["number"]), entry["fault"], outcome + reason, tests])
    table = Table("Faults", ["", "fault: what happens", "outcome", "tests"], rows)
    return table.as_markdown(numbers=False)


def with_table(page: str, table: str) -> str:
    """Put the table between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table}\n{END}{after}"
