"""The list of faults, the tests that inject them, and what the page says of them agree."""

from __future__ import annotations

import json

import pytest

from tests.faults import FAULTS, PAGE, RESULTS, marked_tests, page_table, with_table


@pytest.fixture(autouse=True)
def recorded(request: pytest.FixtureRequest) -> None:
    """Skip where this very run records what is checked here."""
    if request.config.getoption("--record-faults"):
        pytest.skip("is being recorded")


OUTCOMES = json.loads(RESULTS.read_text(encoding="utf-8"))


def test_every_fault_is_injected_by_the_tests_that_are_recorded() -> None:
    assert [entry["number"] for entry in OUTCOMES] == list(FAULTS)
    marked = marked_tests()
    for entry in OUTCOMES:
        assert entry["fault"] == FAULTS[entry["number"]]
        assert entry["tests"] == marked[entry["number"]], "run make faults"
        assert entry["tests"] or entry["outcome"] == "not_testable", entry
        assert entry["outcome"] == "proved" or entry["reason"], entry


def test_page_shows_what_is_recorded() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert with_table(text, page_table(OUTCOMES)) == text, "run make faults"
