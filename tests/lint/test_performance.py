"""The figures in the documentation are those that the measurements have kept."""

from __future__ import annotations

import pytest

from bench import chart, goals, pages
from bench.__main__ import measurements, title
from bench.result import Result, record


def test_pages_say_what_the_kept_results_say() -> None:
    for path, text in pages.made().items():
        assert path.read_text(encoding="utf-8") == text, f"{path}: .venv/bin/python -m bench pages"


def test_each_measurement_has_a_title_and_its_place_on_the_page() -> None:
    page = pages.PAGES[1].read_text(encoding="utf-8")
    for name, module in measurements().items():
        assert title(module), name
        assert f"<!-- bench: {name} -->" in page, name


def test_a_goal_is_met_by_its_own_value_only() -> None:
    result = Result(values={"run": 1.5, "built": 1.51, "rows": 200_000})
    found = goals.rows({"main": record("main", "the main job", result, {}, 60, 0.1)})
    assert [row[1:] for row in found[:2]] == [
        ("1.50 × at 200,000 rows", "≤ 2 ×", "met"),
        ("1.51 × at 200,000 rows", "≤ 1.5 ×", "not met"),
    ]
    assert {row[1] for row in found[2:]} == {goals.UNKNOWN}


def test_growth_is_fitted_as_a_power_of_the_rows() -> None:
    assert chart.exponent([(2e5, 3.0), (2e6, 30.0), (2e7, 300.0)]) == pytest.approx(1)
    assert chart.exponent([(10, 1.0), (1000, 10.0)]) == pytest.approx(0.5)
    assert chart.exponent([(10, 1.0)]) is None
