"""A project may have whatever else dbt has: exposures, groups, metrics, other sources."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.altered import altered
from tests.support.split import Split

WHAT_ELSE = """
groups:
  - {name: finance, owner: {name: Finance, email: finance@example.com}}

exposures:
  - {name: revenue, type: dashboard, owner: {email: a@example.com}, depends_on: [ref('payments')],
     config: &here {enabled: "{{ target.name == 'payments_db' }}"}}

semantic_models:
  - name: payments
    model: ref('payments')
    config: *here
    defaults: {agg_time_dimension: created_at}
    entities: [{name: payment, type: primary, expr: id}]
    dimensions: [{name: created_at, type: time, type_params: {time_granularity: day}}]
    measures: [{name: paid, agg: sum, expr: amount}]

metrics:
  - {name: paid, label: Paid, config: *here, type: simple, type_params: {measure: {name: paid}}}

saved_queries:
  - name: paid_by_day
    config: *here
    query_params: {metrics: [paid], group_by: ["TimeDimension('payment__created_at', 'day')"]}
    exports: [{name: paid_by_day, config: {export_as: table}}]

models:
  - name: days
    description: One row a day.
    config: {materialized: view, contract: {enforced: false}}
    time_spine: {standard_granularity_column: day}
    columns: [{name: day, data_type: date, granularity: day}]
"""
OTHER_SOURCE = """
sources:
  - name: warehouse
    schema: pg_catalog
    tables:
      - name: pg_class
        columns: [{name: oid}]
"""
DAYS = "select day::date from generate_series(date '2026-01-01', '2026-01-31', '1 day') as day"


@pytest.mark.slow
def test_exposures_groups_metrics_and_other_sources_do_not_stop_a_build(
    landed: Split, tmp_path: Path
) -> None:
    changed = altered(landed, tmp_path)
    changed.write("models/what_else.yml", WHAT_ELSE)
    changed.write("models/warehouse.yml", OTHER_SOURCE)
    changed.write("models/days.sql", DAYS)
    ran = changed.run("build", "payments")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    built = json.loads((tmp_path / "project/target/payments_db/run_results.json").read_text())
    kinds = {one["unique_id"].split(".")[0] for one in built["results"]}
    assert {"exposure", "saved_query"} <= kinds  # else this test would prove nothing
    shown = changed.run("analyze", "--json")
    assert shown.returncode == 0, shown.stderr
    assert "pg_class" not in {one["table_name"] for one in json.loads(shown.stdout)["tables"]}
    verified = changed.run("verify", "payments")
    assert verified.returncode == 0, verified.stdout + verified.stderr
